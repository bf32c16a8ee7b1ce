"""The agent's program against what is at the other end."""

import socket
import threading
from pathlib import Path

import pytest

from control_plane_agent.cli import main


def test_a_server_that_does_not_speak_http_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def greet() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            connection.recv(65_536)

    monkeypatch.setenv("CONTROL_PLANE_AGENT_STATE_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = threading.Thread(target=greet)
        server.start()

        assert main(["enrol", "--server", url, "--token", "x", "--hostname", "web1"]) == 1
        server.join(timeout=10)

    assert capsys.readouterr().err == f"control-plane-agent: {url} does not answer like a control plane: no HTTP\n"
