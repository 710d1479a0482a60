"""The pictures of the documents: ``python -m tests.pictures DIRECTORY [release|portal|session|fleet]`` makes them anew.

Input: an empty directory, whose path the pictures show. Output:
``docs/pictures/*.png``, taken by a real browser of pages that real runs made;
below ``DIRECTORY/looks`` each page of the portal at 1280 and 390 px, light
and dark, for somebody to look at.
"""

import os
import shutil
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import tifffile
from playwright.sync_api import Page

from lading.cli import compress as command
from lading.portal.store import SUCCESS, JobStore, NewJob
from lading.testing.ephys_data import make_samples, write_openephys
from lading.testing.s3_server import serve as serve_s3
from tests.browser import open_page
from tests.conftest import REPOSITORY
from tests.fleet_list import make_list
from tests.images import light_sheet
from tests.integration.test_view import PublicBucket
from tests.portal import Portal, lab_job, list_text, serve

PICTURES = REPOSITORY / "docs" / "pictures"
FAULTY = (
    ("default", "Lab", "ecephys", "2024-05-27 16:07:59", "123456", "ecephys", "/data/session1/ecephys"),
    ("default", "Lab", "ecefys", "27.5.2024", "12_3457", "ecephyss", "/data/session2/ecephys"),
    ("default", "Lab", "SmartSPIM", "2024-05-29 09:30:00", "123458", "SPIM", "data/session3/stack"),
)
REFUSED = "12 objects failed: the bucket refuses them (AccessDenied); ask its owner for s3:PutObject"
HEADER = ("job_type", "project_name", "platform", "acq_datetime", "subject_id", "modality0", "modality0.source")


def make_release(release: Path) -> None:
    """A release as surveys lay them out: sparse files of plausible sizes."""
    for reduction, programs in (("iron", 6), ("jura", 4), ("kibo", 2)):
        base = release / "spectro" / "redux" / reduction
        for tile in range(40 if reduction == "iron" else 8):
            for night in range(20240501, 20240501 + 2 * programs):
                folder = base / "tiles" / str(1000 + tile) / str(night)
                folder.mkdir(parents=True)
                for petal in range(4):
                    size = 3000 * (1 + (tile * 7 + petal * night) % 97)
                    sparse(folder / f"coadd-{petal}-{1000 + tile}-{night}.fits", size)
        for name, count, size in (("healpix", 90, 700_000), ("exposures", 60, 400_000), ("zcatalog", 8, 2_000_000)):
            (base / name).mkdir()
            for number in range(count // (1 if reduction == "iron" else 3)):
                sparse(base / name / f"{name}-{number:03d}.fits", size // 8 * (1 + (number * 37) % 13))
        sparse(base / f"exposures-{reduction}.csv", 3_000_000)
    for name, count in (("zcat", 12), ("target", 60), ("vac/lss", 25), ("vac/bgs", 40), ("raw/2024", 300)):
        (release / name).mkdir(parents=True)
        for number in range(count):
            sparse(release / name / f"{name.split('/')[-1]}-{number:04d}.fits", 20_000 * (1 + (number * 37) % 61))


def sparse(path: Path, size: int) -> None:
    with open(path, "wb") as stream:
        stream.truncate(size)


def picture_release(base: Path) -> None:
    release, work = base / "public" / "dr1", base / "dr1"
    make_release(release)
    work.mkdir()
    with serve_s3(base / "s3") as server:
        server.make_bucket("public")
        command = ["make", "-s", "-f", str(REPOSITORY / "makefile"), "-o", f"{sys.prefix}/.ready", f"venv={sys.prefix}"]
        command += [f"root={release.parent}", f"release={release}", "bucket=s3://public", f"endpoint={server.endpoint}"]
        command += ["here=1", "min_batch=1M", "max_batch=20M"]
        for more in (["find.json"], ["batch.json"], ["upload", "max_batches=8"], ["upload"], ["verify"], ["report"]):
            subprocess.run([*command, *more], cwd=work, env={**os.environ, **server.environment()}, check=True)
    with open_page(1280, 800) as page:
        page.goto((work / "report" / "tree.html").as_uri())
        for name in ("spectro", "redux", "iron"):
            page.get_by_role("option", name=f"{name}/", exact=False).first.click()
            page.wait_for_timeout(300)
        page.screenshot(path=PICTURES / "tree.png")
        page.set_viewport_size({"width": 1100, "height": 1000})
        page.goto((work / "report" / "index.html").as_uri())
        page.screenshot(path=PICTURES / "report.png")


# What of the portal goes into the documents: page → looks.
KEPT = {
    "home": ("1280-light",),
    "faults": ("1280-light", "390-dark"),
    "jobs": ("1280-light", "390-light", "1280-dark"),
    "tasks": ("1280-light",),
    "rest": ("1280-light",),
    "fleet": ("1280-light",),
}


def shoot(page: Page, name: str, looks: Path) -> None:
    """Take a page on a laptop and on a phone, by day and by night."""
    for width, height in ((1280, 760), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            look = f"{width}-{scheme}"
            page.screenshot(path=looks / f"{name}-{look}.png")
            if look in KEPT.get(name, ()):
                plain = look == "1280-light"
                shutil.copyfile(
                    looks / f"{name}-{look}.png", PICTURES / f"portal-{name}{'' if plain else '-' + look}.png"
                )
    page.set_viewport_size({"width": 1280, "height": 760})
    page.emulate_media(color_scheme="light")


def picture_portal(base: Path) -> None:
    source, slow, looks = base / "lab" / "behavior", base / "lab" / "slow", base / "looks"
    for folder in (source, slow, looks):
        folder.mkdir(parents=True)
    (source / "trials.csv").write_bytes(os.urandom(200_000))
    for number in range(6000):
        (slow / f"frame-{number:04d}").write_bytes(os.urandom(2000))
    (base / "list.csv").write_text(list_text([dict(zip(HEADER, row, strict=True)) for row in FAULTY]))
    (base / "good.csv").write_text(list_text([dict(zip(HEADER, FAULTY[0], strict=True))]))
    preset = base / "presets/job_types/v2/default/tasks/upload_data_to_s3.json"
    preset.parent.mkdir(parents=True)
    preset.write_text('{"skip_task": false}')
    (base / "token").write_text("correct-horse-battery-staple")
    (base / "token").chmod(0o600)
    with serve_s3(base / "s3-lab") as server:
        server.make_bucket("lab")
        os.environ.update(server.environment())
        flags = ("--bucket", "lab", "--endpoint-url", server.endpoint, "--presets", str(base / "presets"))
        flags += ("--token-file", str(base / "token"))
        flags += ("--fleet", str(make_list(base, 40, REFUSED)))
        with serve(base, *flags) as portal, open_page(1280, 760, zone="America/Los_Angeles") as page:
            picture_lists(portal, page, base, looks)
            picture_jobs(portal, page, source, slow, looks)
            for name, path in (("params", "/job_params?key=job_types/v2/default/tasks/upload_data_to_s3"),
                               ("rest", "/rest"), ("fleet", "/fleet"), ("missing", "/nothing"),
                               ("login", "/login")):  # fmt: skip
                page.goto(portal.url + path)
                shoot(page, name, looks)


def picture_lists(portal: Portal, page: Page, base: Path, looks: Path) -> None:
    page.goto(portal.url)
    shoot(page, "home", looks)
    for name, path, says in (("faults", "list.csv", "Nothing was submitted"), ("ready", "good.csv", "No errors")):
        page.goto(portal.url)
        page.set_input_files("#file", base / path)
        page.get_by_role("button", name="Check").click()
        page.get_by_text(says).wait_for()
        shoot(page, name, looks)


def picture_jobs(portal: Portal, page: Page, source: Path, slow: Path, looks: Path) -> None:
    jobs = [lab_job(subject, source) for subject in ("123456", "123457")]
    jobs.append(lab_job("123458", source.parent / "gone"))
    jobs += [lab_job(subject, slow) for subject in ("123459", "123460", "123461")]
    assert portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": jobs}).status_code == 200
    page.goto(f"{portal.url}/jobs")
    page.locator("td.state", has_text="failed").first.wait_for(timeout=120_000)
    page.locator("td.state", has_text="running").first.wait_for(timeout=120_000)
    page.wait_for_timeout(2500)
    shoot(page, "jobs", looks)
    page.locator("tr", has_text="123459").locator("td.name a").click()
    page.get_by_text("send_job_end_email").wait_for(timeout=120_000)
    shoot(page, "open", looks)
    for name, which in (("tasks", "behavior_123456"), ("failed", "behavior_123458")):
        page.goto(f"{portal.url}/jobs")
        page.get_by_role("link", name=f"Tasks of {which}").click()
        page.get_by_text("send_job_start_email").wait_for(timeout=120_000)
        shoot(page, name, looks)
    page.get_by_role("link", name="retry").click()
    shoot(page, "confirm", looks)


def picture_session(base: Path) -> None:
    """The page of a job that compressed images and a recording, and its bucket's answer to a browser."""
    prefix, job = "SmartSPIM_123456_2024-05-27_16-07-59", "5f2b7c019ad34e68"
    base.mkdir(parents=True, exist_ok=True)
    image = np.stack([light_sheet((60, 400, 600), seed) for seed in (3, 5, 8)], axis=1)
    (base / "images").mkdir()
    tifffile.imwrite(
        base / "images" / "tile_x00_y01.ome.tif", image, ome=True,
        metadata={"axes": "ZCYX", "PhysicalSizeX": 0.65, "PhysicalSizeY": 0.65, "PhysicalSizeZ": 2.0,
                  "Channel": {"Name": ["Ex_445", "Ex_488", "Ex_561"]}},
    )  # fmt: skip
    samples = make_samples(60_000, 384, 3, step=12, offset=300, units=60)
    write_openephys(base / "recording", {"Neuropix-PXI-100.ProbeA-AP": samples})
    state = base / "home" / "state" / "lab" / prefix / "compress"
    for part, source, kind in (("SPIM", "images", "imaging"), ("ecephys", "recording", "ephys")):
        words = [str(base / source), str(base / "public" / part), "--kind", kind, "--state", str(state / part)]
        assert command.main([*words, "--workers", "1"]) == 0
    store = JobStore(base / "home" / "jobs.sqlite")
    store.add([NewJob(job, prefix, "lab", "SmartSPIM", None, "{}")])
    assert store.start(job)
    assert store.end(job, SUCCESS, "")
    PublicBucket.top, PublicBucket.prefix = base / "public", f"/lab/{prefix}/"
    server = ThreadingHTTPServer(("127.0.0.1", 0), PublicBucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    looks = base / "looks"
    looks.mkdir()
    flags = ("--bucket", "lab", "--endpoint-url", f"http://127.0.0.1:{server.server_address[1]}")
    with serve(base, *flags) as portal, open_page(1280, 900) as page:
        page.goto(f"{portal.url}/job_tasks_table?dag_run_id={job}")
        page.get_by_role("button", name="Check that a browser may read them").click()
        page.get_by_text("A browser may read the images.").wait_for()
        for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            page.locator("#outputs").scroll_into_view_if_needed()
            page.screenshot(path=looks / f"session-{width}-{scheme}.png", full_page=True)
    server.shutdown()
    shutil.copyfile(looks / "session-1280-light.png", PICTURES / "portal-session.png")
    for name, target in (("SPIM/imaging_preview", "preview-image"), ("ecephys/ecephys_preview", "preview-recording")):
        (made,) = [path for path in (base / "public" / name).iterdir() if "SYNC" not in path.name]
        shutil.copyfile(made, PICTURES / f"{target}.png")


def picture_fleet(base: Path) -> None:
    base.mkdir(exist_ok=True)
    make_list(base, 40, REFUSED)
    command = [sys.executable, "-m", "lading", "fleet", "report"]
    subprocess.run(command, cwd=base, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True)
    for width, height, dark in ((1280, 760, False), (390, 844, True), (1280, 760, True)):
        with open_page(width, height, dark=dark) as page:
            page.goto((base / "fleet-report" / "index.html").as_uri())
            look = "" if (width, dark) == (1280, False) else f"-{width}-{'dark' if dark else 'light'}"
            page.screenshot(path=PICTURES / f"fleet{look}.png")


def main() -> None:
    base, *wanted = sys.argv[1:]
    PICTURES.mkdir(exist_ok=True)
    pictures = {
        "release": picture_release,
        "portal": picture_portal,
        "session": picture_session,
        "fleet": picture_fleet,
    }
    for name, picture in pictures.items():
        if name in (wanted or (name,)):
            picture(Path(base).absolute())


if __name__ == "__main__":
    main()
