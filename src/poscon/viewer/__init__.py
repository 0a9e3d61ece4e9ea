"""A local page that shows scans with their label maps: what is shown, and the server of the page.

The page shows volumes with NiiVue (https://niivue.com), which is in ``page/``.
"""
