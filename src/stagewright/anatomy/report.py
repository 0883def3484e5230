"""Images as plain data and as text: what each layer brings and wastes, and how two images differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stagewright.anatomy.packages import compare_packages, packages_of
from stagewright.anatomy.tree import File, ImageTree, Layer, folder_sizes
from stagewright.image.gojson import loads_object
from stagewright.progress.text import format_bytes

_FOLDERS = 15
_NAMED = 5
_SHOWN = 40
_INSTRUCTION = 100


def layers_data(name: str, tree: ImageTree) -> dict[str, Any]:
    """What each layer of an image brings, and what later ones delete or overwrite of it."""
    wasted = [0] * len(tree.layers)
    for layer in tree.layers:
        for file in (*layer.overwritten, *layer.deleted):
            wasted[file.layer] += file.size
    return {
        "image": name,
        "size": sum(layer.size for layer in tree.layers),
        "wasted": sum(wasted),
        "layers": [_layer(index, layer, wasted[index]) for index, layer in enumerate(tree.layers)],
        "largest_folders": [
            {"path": f"/{folder}", "size": size} for folder, size in folder_sizes(list(tree.files.values()), _FOLDERS)
        ],
    }


def _layer(index: int, layer: Layer, wasted: int) -> dict[str, Any]:
    return {
        "index": index,
        "instruction": layer.instruction,
        "digest": layer.digest,
        "diff_id": layer.diff_id,
        "compressed_size": layer.compressed,
        "size": layer.size,
        "files": layer.files,
        "wasted": wasted,
        "overwrites": _lost(layer.overwritten),
        "deletes": _lost(layer.deleted),
    }


def _lost(files: list[File]) -> list[dict[str, Any]]:
    ordered = sorted(files, key=lambda file: (-file.size, file.path))
    return [{"path": f"/{file.path}", "size": file.size, "layer": file.layer} for file in ordered]


def layers_text(data: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = [f"{data['image']}: {len(data['layers'])} layers with {format_bytes(data['size'])} of files"]
    wasted = "nothing"
    if data["wasted"]:
        share = f"{100 * data['wasted'] / data['size']:.0f}%"
        wasted = f"{format_bytes(data['wasted'])} ({share}), which later layers delete or overwrite"
    lines += [f"wasted: {wasted}", ""]
    for layer in data["layers"]:
        files = f"{layer['files']} {'file' if layer['files'] == 1 else 'files'}"
        size = f"{format_bytes(layer['size'])} in {files}, {format_bytes(layer['compressed_size'])} compressed"
        lines.append(f"{layer['index']}: {_cut(layer['instruction']) or '(no history)'}")
        lines.append(f"    {size}{_wasted(layer)}")
        for what in ("overwrites", "deletes"):
            lines += _lost_lines(what, layer[what])
    if data["largest_folders"]:
        lines += ["", "largest folders:"]
        lines += [f"    {format_bytes(folder['size']):>9}  {folder['path']}" for folder in data["largest_folders"]]
    return "\n".join(lines) + "\n"


def _wasted(layer: Mapping[str, Any]) -> str:
    return f"; {format_bytes(layer['wasted'])} wasted" if layer["wasted"] else ""


def _lost_lines(what: str, files: list[dict[str, Any]]) -> Iterator[str]:
    if not files:
        return
    total = format_bytes(sum(file["size"] for file in files))
    yield f"    {what} {len(files)} {'file' if len(files) == 1 else 'files'} of layers below, {total}"
    for file in files[:_NAMED]:
        yield f"        {format_bytes(file['size']):>9}  {file['path']} of layer {file['layer']}"
    if len(files) > _NAMED:
        yield f"        and {len(files) - _NAMED} more"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _INSTRUCTION else f"{line[:_INSTRUCTION]}..."


# --- two images ---------------------------------------------------------------------------------------------------


def diff_data(
    names: tuple[str, str], trees: tuple[ImageTree, ImageTree], configs: tuple[bytes, bytes]
) -> dict[str, Any]:
    """How the second image differs from the first: config, packages and files, times left out."""
    old, new = trees
    packages = packages_of(old.files), packages_of(new.files)
    sizes = [sum(file.size for file in tree.files.values()) for tree in trees]
    return {
        "images": list(names),
        "sizes": sizes,
        "config": list(_config_changes(*(loads_object(config, "image config") for config in configs))),
        "packages": [
            {"kind": kind, "name": name, "old": before, "new": after}
            for kind, name, before, after in compare_packages(*packages)
        ],
        "files": list(_file_changes(old.files, new.files)),
    }


def _config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings that differ, those of lists and objects one by one."""
    before, after = _settings(old), _settings(new)
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield {"name": name, "old": before.get(name), "new": after.get(name)}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: config[name] for name in ("architecture", "os", "variant", "author") if config.get(name)}
    for name, value in (config.get("config") or {}).items():
        if name == "Env":
            found.update({f"Env {item.partition('=')[0]}": item.partition("=")[2] for item in value or ()})
        elif isinstance(value, dict) and name in ("Labels", "ExposedPorts", "Volumes"):
            found.update({f"{name} {key}": item if name == "Labels" else True for key, item in value.items()})
        elif value:
            found[name] = value
    return found


def _file_changes(old: Mapping[str, File], new: Mapping[str, File]) -> Iterator[dict[str, Any]]:
    for path in sorted({*old, *new}):
        before, after = old.get(path), new.get(path)
        if before is None or after is None:
            there = after or before
            assert there is not None
            kind = "removed" if after is None else "added"
            yield {"path": f"/{path}", "change": kind, "type": there.kind, "size": there.size}
        elif differing := [what for what, get in _COMPARED.items() if get(before) != get(after)]:
            changed = {
                what: [_COMPARED[what](before), _COMPARED[what](after)] for what in differing if what != "content"
            }
            sizes = {"old_size": before.size, "size": after.size}
            same = {"path": f"/{path}", "change": "changed", "type": after.kind}
            yield {**same, "what": differing, "values": changed, **sizes}


_COMPARED: dict[str, Any] = {
    "type": lambda file: file.kind,
    "content": lambda file: file.digest,
    "target": lambda file: file.target if file.kind != "file" else "",
    "mode": lambda file: f"{file.mode:04o}",
    "owner": lambda file: file.owner,
}


def diff_text(data: Mapping[str, Any]) -> str:
    """The same for people: the config and the packages, and the files up to a number."""
    before, after = data["sizes"]
    sign = "+" if after >= before else "-"
    sizes = f"{format_bytes(before)} -> {format_bytes(after)} ({sign}{format_bytes(abs(after - before))})"
    lines = [f"{data['images'][0]} -> {data['images'][1]}: {sizes}"]
    if data["config"]:
        lines += ["", "config:"]
        lines += [f"    {line}" for change in data["config"] for line in _change_lines(change["name"], change)]
    if data["packages"]:
        lines += ["", "packages:"]
        lines += [f"    {_package_line(package)}" for package in data["packages"]]
    if data["files"]:
        counts = [sum(file["change"] == kind for file in data["files"]) for kind in ("added", "removed", "changed")]
        lines += ["", "files: {} added, {} removed, {} changed".format(*counts)]
        largest = sorted(data["files"], key=lambda file: (-max(file["size"], file.get("old_size", 0)), file["path"]))
        shown = sorted(largest[:_SHOWN], key=lambda file: str(file["path"]))
        lines += [f"    {_file_line(file)}" for file in shown]
        if len(largest) > _SHOWN:
            lines.append(f"    and {len(largest) - _SHOWN} more (--json names them all)")
    if len(lines) == 1:
        lines.append("no difference in config, packages and files")
    return "\n".join(lines) + "\n"


def _change_lines(name: str, change: Mapping[str, Any]) -> Iterator[str]:
    if change["old"] is not None:
        yield f"- {name}: {change['old']}"
    if change["new"] is not None:
        yield f"+ {name}: {change['new']}"


def _package_line(package: Mapping[str, Any]) -> str:
    name = f"{package['kind']} {package['name']}"
    if package["old"] is None:
        return f"+ {name} {package['new']}"
    if package["new"] is None:
        return f"- {name} {package['old']}"
    return f"~ {name} {package['old']} -> {package['new']}"


def _file_line(file: Mapping[str, Any]) -> str:
    if file["change"] != "changed":
        return f"{'+' if file['change'] == 'added' else '-'} {file['path']} ({format_bytes(file['size'])})"
    parts = []
    for what in file["what"]:
        if what == "content":
            parts.append(f"{format_bytes(file['old_size'])} -> {format_bytes(file['size'])}")
        else:
            before, after = file["values"][what]
            parts.append(f"{what} {before or 'none'} -> {after or 'none'}")
    return f"~ {file['path']} ({', '.join(parts)})"
