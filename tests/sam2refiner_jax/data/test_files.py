"""Which files of a folder count."""

from sam2refiner_jax.data.files import file_named, files_below, files_in, folders_in


def test_hidden_files_and_folders_are_passed_over_and_capitals_are_not(tmp_path):
    folder = tmp_path / ".cache"  # where the folder itself lies does not matter
    for name in (
        "b.JPG",
        "a.png",
        "._a.png",
        ".a.png",
        "notes.txt",
        "sub/c.Png",
        ".ipynb_checkpoints/a.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "folder.png").mkdir()
    assert [path.name for path in files_in(folder)] == ["a.png", "b.JPG"]
    assert [path.name for path in files_in(folder, (".png",))] == ["a.png"]
    assert [str(path.relative_to(folder)) for path in files_below(folder)] == ["a.png", "b.JPG", "sub/c.Png"]
    assert [path.name for path in folders_in(folder)] == ["folder.png", "sub"]
    assert file_named(folder / "sub", "c") == folder / "sub" / "c.Png"
    assert file_named(folder, "a") == folder / "a.png"
    assert file_named(folder, "b") == folder / "b.png"  # which is not there
    assert file_named(folder / "none", "b") == folder / "none" / "b.png"
