"""Prints the API's OpenAPI document, from which scripts/types makes the dashboard's types."""

import json
import sys

from control_plane.api.app import with_routes
from control_plane.api.authentication import SessionCookie
from control_plane.api.openapi import describe

if __name__ == "__main__":
    json.dump(describe(with_routes(SessionCookie("http://127.0.0.1"))), sys.stdout, indent=2, ensure_ascii=False)
