"""`python -m jdx.store`: see `tool`."""

from jdx.store.tool import main

if __name__ == "__main__":
    raise SystemExit(main())
