"""The commands: one module and one public function each, both named like the command."""
