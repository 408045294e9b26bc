"""What is here is run as commands, in several processes: pytest must not import it."""

collect_ignore_glob = ["*.py"]
