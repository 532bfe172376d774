"""`python -m offhook.gateway` is the command `offhook`."""

from offhook.gateway.cli import main

if __name__ == "__main__":
    main()
