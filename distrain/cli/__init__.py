"""What people type. Imports click alone; a command's body imports the rest when it is called."""
