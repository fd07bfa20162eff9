#!/usr/bin/env python3
"""Makes the packages of a program and tries each where nothing else is: the Debian package in a fresh Debian,
the tarball in an empty folder, the image's root by itself. Ends with "package: N passed, M failed".

    packages.py GANNET DEBIAN    GANNET: the program; DEBIAN: the root of a fresh Debian, which is not changed

Takes root (chroot), dpkg-deb, buildah and systemd-analyze.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATIENCE = 30


def run(*command, **more):
    """What it prints; it must succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **more)
    if done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(gannet, out, *more):
    run("deploy/package/build", out, "--binary", gannet, *more, cwd=ROOT)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serves(*command, port):
    """The program answers on loopback, and ends when it is told to."""
    server = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    server.kill()
                    raise AssertionError(f"{command} does not serve:\n{server.stderr.read()}") from None
                time.sleep(0.05)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=PATIENCE) == 0, server.stderr.read()
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()


def deb(packages, debian, work):
    root = work / "debian"
    run("cp", "-a", "--reflink=auto", debian, root)
    [package] = packages.glob("*.deb")
    shutil.copy(package, root / "gannet.deb")
    print(run("chroot", root, "dpkg", "-i", "/gannet.deb"))
    secrets = root / "etc/gannet/gannet.env"
    made = secrets.read_text()
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600 and len(made) > 100, "secrets for root alone"
    assert run("chroot", root, "getent", "passwd", "gannet").split(":")[6].strip() == "/usr/sbin/nologin"
    assert (root / "usr/share/man/man1/gannet-token-check.1.gz").exists()
    assert (root / "usr/share/bash-completion/completions/gannet").stat().st_size > 1000
    run("chroot", root, "/usr/share/gannet/tuning/apply", "--help")

    environment = dict(line.split("=", 1) for line in made.splitlines())
    check = ("chroot", root, "env", *(f"{name}={value}" for name, value in environment.items()), "/usr/bin/gannet")
    said = run(*check, "check", "--config", "/etc/gannet/gannet.toml", "--http_server.port", free_port())
    assert said == "config ok\n", said
    public, internal = free_port(), free_port()
    ports = ("--http_server.address", "127.0.0.1", "--http_server.port", public, "--http_server.internal_port", internal)
    as_user = ("chroot", "--userspec=gannet:gannet", *check[1:], "--config", "/etc/gannet/gannet.toml")
    serves(*as_user, *ports, port=internal)

    # An upgrade leaves what is the operator's.
    config = root / "etc/gannet/gannet.toml"
    config.write_text(config.read_text() + "# mine\n")
    run("chroot", root, "dpkg", "-i", "/gannet.deb")
    assert secrets.read_text() == made and config.read_text().endswith("# mine\n")
    run("chroot", root, "dpkg", "--remove", "gannet")
    assert secrets.exists() and config.exists() and not (root / "usr/bin/gannet").exists()
    run("chroot", root, "dpkg", "--purge", "gannet")
    assert not (root / "etc/gannet").exists()


def unit(packages, work):
    tree = work / "unit"
    [package] = packages.glob("*.deb")
    run("dpkg-deb", "-x", package, tree)
    text = (tree / "usr/lib/systemd/system/gannet.service").read_text()
    assert re.search(r"^Type=notify$", text, re.M) and re.search(r"^WatchdogSec=", text, re.M)
    (work / "gannet.service").write_text(text.replace("/usr/bin/gannet", str(tree / "usr/bin/gannet")))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(work / "gannet.service")], capture_output=True, text=True
    )
    complaints = [line for line in said.stderr.splitlines() if "gannet" in line]
    assert not complaints, complaints
    # 0 is a cage and 100 is none.
    run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", work / "gannet.service")


def tarball(packages, work):
    [archive] = packages.glob("*.tar.gz")
    tarfile.open(archive).extractall(work / "tar")
    [folder] = (work / "tar").iterdir()
    assert run(folder / "gannet", "version", env={}).startswith("gannet ")
    for name in ("README.md", "LICENSE", "deploy/gannet.service", "tuning/apply", "docs/operations.md", "man/gannet.1"):
        assert (folder / name).exists(), name


def image(packages, work):
    [archive] = packages.glob("*.oci.tar")
    layout, root = work / "oci", work / "image"
    tarfile.open(archive).extractall(layout)

    def blob(digest):
        return layout / "blobs" / digest.replace(":", "/")

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    config = json.loads(blob(manifest["config"]["digest"]).read_text())["config"]
    assert config["User"] == "65532:65532" and config["Entrypoint"] == ["/usr/bin/gannet"], config
    for layer in manifest["layers"]:
        root.mkdir(exist_ok=True)
        run("tar", "-xf", blob(layer["digest"]), "-C", root)
    port = free_port()
    # Nobody's, and nothing in it can be written.
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec chroot --userspec=65532:65532 "$@"'
    serves(
        "unshare", "--mount", "sh", "-c", script, root, root, *config["Entrypoint"],
        "--dev", "--http_server.port", port, port=port,
    )  # fmt: skip


def same_bytes(gannet, packages, work):
    again = work / "again"
    build(gannet, again, "--only", "deb,tar")
    for name in sorted(path.name for path in again.iterdir() if path.name != "SHA256SUMS"):
        assert (again / name).read_bytes() == (packages / name).read_bytes(), f"{name} is other than the first time"


def checksums(packages):
    lines = (packages / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == 3, lines
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((packages / name).read_bytes()).hexdigest() == digest, name


def main(gannet, debian):
    gannet, debian = pathlib.Path(gannet).resolve(), pathlib.Path(debian).resolve()
    os.umask(0o022)
    good = []
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        packages = work / "packages"
        build(gannet, packages)
        for name, step in (
            ("the Debian package installs, serves, upgrades and goes", lambda: deb(packages, debian, work)),
            ("systemd finds no fault with the unit", lambda: unit(packages, work)),
            ("the tarball runs where it is unpacked", lambda: tarball(packages, work)),
            ("the image serves, read-only and as nobody", lambda: image(packages, work)),
            ("made again, they have the same bytes", lambda: same_bytes(gannet, packages, work)),
            ("the checksums fit", lambda: checksums(packages)),
        ):
            try:
                step()
                good.append(True)
            except (AssertionError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
                good.append(False)
                print(error)
            print(f"{'ok' if good[-1] else 'FAILED'}: {name}", flush=True)
    print(f"package: {good.count(True)} passed, {good.count(False)} failed")
    return 0 if all(good) else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
