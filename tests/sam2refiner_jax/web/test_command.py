"""`sam2refiner demo --web`, as a user starts it."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from small import small_model

from sam2refiner_jax import save_model
from sam2refiner_jax.commands.cli import main

if importlib.util.find_spec("gradio") is None:  # to import it takes every worker seconds
    pytest.skip("the extra `web` is not installed", allow_module_level=True)
OURS = "import sys; from sam2refiner_jax.commands.cli import main; main(sys.argv[1:])"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "small"
    save_model(small_model(), directory)
    return str(directory)


def fails(capsys, *arguments):
    """The line that the command prints when it exits with status 2."""
    with pytest.raises(SystemExit) as exit_:
        main(["demo", *arguments])
    assert exit_.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_port_that_is_taken_is_said(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} cannot be listened on (Address already in use)" in fails(capsys, "--web", "--port", port)
    assert "port must be in [0, 65535], got 70000" in fails(capsys, "--web", "--port", "70000")


def test_options_that_would_do_nothing_are_refused(capsys):
    assert "port is of the page: give web too" in fails(capsys, "--port", "7860")
    assert "output must not be given with web" in fails(capsys, "--web", "--output", "out")


@pytest.mark.slow
def test_without_the_extra_the_page_says_so_and_the_demo_runs(checkpoint, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("server", "layout"):
        monkeypatch.delitem(sys.modules, f"sam2refiner_jax.web.{name}", raising=False)
    assert "web needs gradio, which is not installed; pip install 'sam2refiner_jax[web]'" in fails(capsys, "--web")
    main(["demo", "--checkpoint", checkpoint, "--output", str(tmp_path / "out")])
    assert (tmp_path / "out" / "demo.png").exists()


def test_it_serves_until_it_is_interrupted(checkpoint, tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", OURS, "demo", "--web", "--port", "0", "--checkpoint", checkpoint]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            line = server.stdout.readline()
            assert line.startswith("page: http://127.0.0.1:")
            url = line.split()[1].rstrip(",")
            assert b"gradio" in urllib.request.urlopen(url).read()
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 130
            assert server.stderr.read().strip().splitlines() == ["sam2refiner: interrupted"]
        finally:
            server.kill()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
