"""The pictures of the documents: ``python -m tests.pictures DIRECTORY`` makes them anew.

Input: an empty directory, whose path the pictures show. Output:
``docs/pictures/*.png``, taken by a real browser of pages that real runs made.
"""

import os
import subprocess
import sys
from pathlib import Path

from demo.server import serve as serve_s3
from tests.browser import open_page
from tests.conftest import REPOSITORY
from tests.portal import lab_job, list_text, serve

PICTURES = REPOSITORY / "docs" / "pictures"
FAULTY = (
    ("default", "Lab", "ecephys", "2024-05-27 16:07:59", "123456", "ecephys", "/data/session1/ecephys"),
    ("default", "Lab", "ecefys", "27.5.2024", "12_3457", "ecephyss", "/data/session2/ecephys"),
    ("default", "Lab", "SmartSPIM", "2024-05-29 09:30:00", "123458", "SPIM", "data/session3/stack"),
)
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


def picture_portal(base: Path) -> None:
    source = base / "lab" / "behavior"
    source.mkdir(parents=True)
    (source / "trials.csv").write_bytes(os.urandom(200_000))
    (base / "list.csv").write_text(list_text([dict(zip(HEADER, row, strict=True)) for row in FAULTY]))
    with serve_s3(base / "s3-lab") as server:
        server.make_bucket("lab")
        os.environ.update(server.environment())
        with serve(base, "--bucket", "lab", "--endpoint-url", server.endpoint) as portal, open_page(1400, 760) as page:
            page.goto(portal.url)
            page.screenshot(path=PICTURES / "portal-home.png")
            page.set_input_files("#file", base / "list.csv")
            page.get_by_role("button", name="Check").click()
            page.get_by_text("Nothing was submitted").wait_for()
            page.screenshot(path=PICTURES / "portal-faults.png")
            jobs = [lab_job(subject, source) for subject in ("123456", "123457", "123458")]
            jobs.append(lab_job("123459", base / "lab" / "gone"))
            assert portal.client.post("/api/v2/submit_jobs", json={"upload_jobs": jobs}).status_code == 200
            page.goto(f"{portal.url}/jobs")
            page.locator("td.state", has_text="success").first.wait_for(timeout=120_000)
            page.screenshot(path=PICTURES / "portal-jobs.png")
            page.get_by_role("link", name="Tasks of behavior_123456").click()
            page.get_by_text("send_job_end_email").wait_for(timeout=120_000)
            page.set_viewport_size({"width": 1400, "height": 900})
            page.screenshot(path=PICTURES / "portal-tasks.png")


def main() -> None:
    base = Path(sys.argv[1]).absolute()
    PICTURES.mkdir(exist_ok=True)
    picture_release(base)
    picture_portal(base)


if __name__ == "__main__":
    main()
