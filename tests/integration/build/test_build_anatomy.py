"""What images are made of: their layers' files, and how two of them differ."""

from __future__ import annotations

import json

from workbench import Workbench


def test_layers_and_differences_of_real_images(bench: Workbench) -> None:
    bench.dockerfile("""
        FROM debian:trixie-slim
        ARG V=1
        ENV VERSION=$V
        RUN head -c 100000 /dev/zero > /big && echo $V > /version
        RUN head -c 50000 /dev/zero > /big && mkdir -p /usr/lib/python3/dist-packages/app-$V.dist-info && \\
            printf 'Name: app\\nVersion: %s\\n' $V > /usr/lib/python3/dist-packages/app-$V.dist-info/METADATA
        RUN rm /big
    """)
    bench.build("-t", "app:1")
    bench.build("-t", "app:2", "--build-arg=V=2")
    layers = json.loads(bench.stagewright.run("inspect", "--layers", "--json", "app:1").stdout)[0]
    own = layers["layers"][-3:]
    assert [layer["wasted"] for layer in own] == [100_000, 50_000, 0]
    assert own[1]["overwrites"] == [{"path": "/big", "size": 100_000, "layer": own[0]["index"]}]
    assert own[2]["deletes"] == [{"path": "/big", "size": 50_000, "layer": own[1]["index"]}]
    assert "rm /big" in own[2]["instruction"]
    assert any(folder["path"].startswith("/usr") for folder in layers["largest_folders"])
    text = bench.stagewright.run("inspect", "--layers", "app:1").stdout
    assert "    deletes 1 file of layers below, 50.00kB\n" in text
    difference = json.loads(bench.stagewright.run("diff", "--json", "app:1", "app:2").stdout)
    assert difference["config"] == [{"name": "Env VERSION", "old": "1", "new": "2"}]
    assert difference["packages"] == [{"kind": "python", "name": "app", "old": "1", "new": "2"}]
    changed = {file["path"]: file["change"] for file in difference["files"] if file["type"] == "file"}
    assert changed == {
        "/usr/lib/python3/dist-packages/app-1.dist-info/METADATA": "removed",
        "/usr/lib/python3/dist-packages/app-2.dist-info/METADATA": "added",
        "/version": "changed",
    }
    assert "~ python app 1 -> 2\n" in bench.stagewright.run("diff", "app:1", "app:2").stdout
