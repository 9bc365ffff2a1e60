"""`minilora spectrum`: the tables of one adapter and of two."""

from __future__ import annotations

import json

from minilora.cli.app import main
from tests.says import error_line, names


def test_one_adapter_and_two(base, adapter, capsys, tmp_path):
    out = tmp_path / "s.json"
    flags = ["--base", str(base), "--json", str(out)]
    assert main(["spectrum", str(adapter), str(adapter), *flags]) == 0
    shown, told = capsys.readouterr().out, json.loads(out.read_text())
    assert shown.count("layers.1.self_attn.v_proj") == 2
    assert f"{told['spectra'][0]['norm']:.3f}" in shown and "φ(2, 2)" in shown
    assert main(["spectrum", str(adapter), *flags, "--plot", str(tmp_path / "s.png")]) == 0
    assert "φ(" not in capsys.readouterr().out and (tmp_path / "s.png").exists()


def test_a_folder_that_is_neither_is_refused(base, tmp_path, capsys):
    assert main(["spectrum", str(tmp_path), "--base", str(base)]) == 1
    assert names(error_line(capsys), tmp_path)
