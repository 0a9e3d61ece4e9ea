"""The commands. Each has a module and a public function, both named like the command."""
