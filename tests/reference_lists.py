"""Lists of the shapes that the AIND transfer tools' own tests and documents have, and what becomes of each here.

The shapes are theirs (columns, spellings, blanks, forms of dates), the values
are not. ``LISTS`` is the table; ``tests/unit/sessions/test_reference_lists.py``
checks it, and a long test asks the service's own reader for its prefixes.
"""

from dataclasses import dataclass, field

OLD = "data-source, s3-bucket, subject-id, platform, modality, acq-datetime, aws_param_store_name"
OLD_TWO = (
    "modality0, modality0.source, modality1, modality1.source, modality1.compress_raw_data, s3-bucket, subject-id, "
    "platform, acq-datetime, aws_param_store_name"
)
NEW = (
    "project_name, modality0, modality0.source, modality1, modality1.source, s3-bucket, subject-id, platform, "
    "acq-datetime, {}job_type, user_email"
)
NEW_METADATA = (
    "project_name, modality0, modality0.input_source, modality1, modality1.input_source, s3-bucket, subject-id, "
    "platform, acq-datetime, job_type, metadata_dir, user_email"
)
# Before the service had job types.
CAPSULE = (
    "project_name, process_capsule_id, modality0, modality0.source, modality1, modality1.source, s3-bucket, "
    "subject-id, platform, acq-datetime"
)
NO_COLUMN = "'process_capsule_id' is not a column of a job list"
TEMPLATE = (
    "job_type, project_name, platform, acq_datetime, subject_id, metadata_dir, modality0, modality0.input_source, "
    "modality1, modality1.input_source"
)


@dataclass(frozen=True)
class ReferenceList:
    """A list: ``prefixes`` of the jobs here, ``refused`` its errors as (line, column, words).

    ``service`` is False where the service's second version does not read such
    lists: they are of the first tool.
    """

    text: str
    prefixes: list[str]
    refused: list[tuple[int, int, str]] = field(default_factory=list)
    service: bool = True


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


A, B, C = (
    "ecephys_600001_2021-02-03_04-05-06",
    "behavior_600002_2021-03-04_13-05-06",
    "behavior_600002_2021-03-04_13-05-07",
)

LISTS: dict[str, ReferenceList] = {
    "first tool": ReferenceList(
        lines(
            OLD,
            "data/one, lab-bucket, 600001, ecephys, ecephys, 2021-02-03 04:05:06, /lab/endpoints",
            "data/two, lab-bucket, 600002, ecephys, ecephys, 2021-02-04 04:05:06, /lab/endpoints",
        ),
        [A, "ecephys_600002_2021-02-04_04-05-06"],
        service=False,
    ),
    "first tool, optional columns": ReferenceList(
        lines(
            f"{OLD}, behavior-dir, metadata-dir, dry-run",
            "data/spim, lab-bucket,6001, SmartSPIM, SPIM, 2021-02-03 00:00:00, /lab/endpoints",
            "data/one, lab-bucket, 600001, ecephys, ecephys, 2021-02-03 04:05:06, /lab/endpoints",
            "data/two, lab-bucket, 600002, ecephys, ECEPHYS, 2021-02-04 04:05:06, /lab/endpoints, data/videos,,true",
            "data/two, lab-bucket, 600002, ecephys, ecephys, 2021-02-04 04:05:06, /lab/endpoints, data/videos, data/m",
        ),
        ["SmartSPIM_6001_2021-02-03_00-00-00", A, "ecephys_600002_2021-02-04_04-05-06"],
        [(5, 6, "is already the prefix of line 4")],
        service=False,
    ),
    "first tool, two modalities": ReferenceList(
        lines(
            OLD_TWO,
            "ecephys, data/one, confocal, data/one, true, lab-bucket, 600001, ecephys, 2021-02-03 04:05:06, /lab/e",
            "mri, data/one, , , , lab-bucket, 600001, confocal, 2021-02-03 04:05:06, /lab/e",
        ),
        ["confocal_600001_2021-02-03_04-05-06"],
        [(2, 4, "is the source of modality0 too")],
        service=False,
    ),
    "first tool, capsule per row": ReferenceList(
        lines(
            f"codeocean_process_capsule_id, {OLD_TWO}",
            "xyz-1, ecephys, data/one, confocal, data/two, true, lab-bucket, 600001, ecephys, 2021-02-03 04:05:06, /e",
            "zyx-2, mri, data/one, , , , lab-bucket, 600001, confocal, 2021-02-03 04:05:06, /lab/e",
        ),
        [A, "confocal_600001_2021-02-03_04-05-06"],
        service=False,
    ),
    "first tool, old modality names": ReferenceList(
        lines(
            "data-source, s3-bucket, subject-id, modality, platform, acq-datetime, aws_param_store_name",
            "data/one, lab-bucket, 600001, ecephys, ecephys, 2021-02-03 04:05:06, /lab/endpoints",
            "data/two, lab-bucket, 600002, ophys, multiplane-ophys, 2021-02-04 04:05:06, /lab/endpoints",
        ),
        [A, "multiplane-ophys_600002_2021-02-04_04-05-06"],
        service=False,
    ),
    "legacy": ReferenceList(
        lines(
            NEW.format("force_cloud_sync, modality0.process_capsule_id, "),
            "A lab, ecephys, data/one, ,, private, 600001, ecephys, 2021-02-03 04:05:06, True,, default, a@example.org",
            "A lab, behavior-videos, data/two, MRI, data/three, open, 600002, behavior, 3/4/2021 1:05:06 PM,,cap-1, "
            "default, a@example.org",
            "A lab, behavior-videos, data/two, behavior-videos, data/three, default, 600002, behavior, "
            "3/4/2021 1:05:07 PM,,, default, a@example.org",
        ),
        [A, B, C],
    ),
    "legacy, pipeline": ReferenceList(
        lines(
            NEW.format("modality0.pipeline_id, "),
            "A lab, behavior-videos, data/two, MRI, data/three, open, 600002, behavior, 3/4/2021 1:05:06 PM,pipe-1, "
            "default, a@example.org",
        ),
        [B],
    ),
    "nested": ReferenceList(
        lines(
            "project_name, modality0, modality0.input_source, modality0.compression_requested.compression_enum, "
            "subject-id, platform, acq-datetime, job_type, user_email",
            "A lab, ecephys, data/one, gamma fix colorspace, 600001, ecephys, 2021-02-03 04:05:06, ecephys, "
            "a@example.org",
        ),
        [],
        [(2, 4, "'compression_requested' is not read by the compression of ephys")],
    ),
    "new": ReferenceList(
        lines(
            NEW_METADATA,
            "A lab, ecephys, data/one, , , default,600001, ecephys, 2021-02-03 04:05:06, ecephys, data/m, "
            "a@example.org",
            "A lab, behavior-videos, data/two, MRI, data/three, open,600002, behavior, 2021-03-04T13:05:06, custom,, "
            "a@example.org",
            "A lab, behavior-videos, data/two, , , ,600002, behavior, 2021-03-04 13:05:07, default,, a@example.org",
        ),
        [A, B, C],
    ),
    "new, blank rows": ReferenceList(
        lines(
            NEW_METADATA,
            "A lab, ecephys, data/one, , , default,600001, ecephys, 2021-02-03 04:05:06, ecephys, data/m, "
            "a@example.org",
            *[","] * 3,
        ),
        [A],
    ),
    "before job types": ReferenceList(
        lines(
            CAPSULE,
            "A lab, , ECEPHYS, data/one, ,, lab-bucket, 600001, ecephys, 2021-02-03 04:05:06",
            "A lab, cap-1, BEHAVIOR_VIDEOS, data/two, MRI, data/three, open, 600002, BEHAVIOR, 3/4/2021 1:05:06 PM",
        ),
        [A, B],
        [(1, 2, NO_COLUMN)],
        service=False,
    ),
    "before job types, blank rows": ReferenceList(
        lines(
            CAPSULE,
            "A lab, , ecephys, data/one, ,, lab-bucket, 600001, ecephys, 2021-02-03 04:05:06",
            *[",,,,,,"] * 3,
        ),
        [A],
        [(1, 2, NO_COLUMN)],
        service=False,
    ),
    "malformed": ReferenceList(
        lines(
            CAPSULE,
            "A lab, , ECEPHYS, data/one, ,, lab-bucket, 600001, ecephys, 2021-02-03 04:05:06",
            "A lab, cap-1, NO_SUCH_MODALITY, data/two, MRI, data/three, open, 600002, BEHAVIOR, 3/4/2021 1:05:06 PM",
        ),
        [A],
        [(1, 2, NO_COLUMN), (3, 3, "is not a modality")],
        service=False,
    ),
    "malformed date": ReferenceList(
        lines(
            "project_name, modality0, modality0.input_source, s3-bucket, subject-id, platform, acq-datetime",
            "A lab, ecephys, data/one, default, 600001, , 2021-02-03ABC",
        ),
        [],
        [(2, 6, "is blank"), (2, 7, "is not a date")],
        service=False,
    ),
    "template": ReferenceList(
        lines(
            TEMPLATE,
            "default,A lab,behavior,2021-03-04 13:05:06,600002,/data/m,behavior-videos,/data/a,behavior,/data/a",
            "default,A lab,SmartSPIM,2021-03-04 04:05:06,600001,,SPIM,/data/s,,",
            "default,A lab,ecephys,2021-02-03 04:05:06,600001,,ecephys,/data/a,behavior-videos,/data/a",
        ),
        ["SmartSPIM_600001_2021-03-04_04-05-06"],
        [(2, 10, "is the source of modality0 too"), (4, 10, "is the source of modality0 too")],
    ),
    "document": ReferenceList(
        lines(
            "project_name, modality0.capsule_id, modality0, modality0.input_source, modality1, "
            "modality1.input_source, s3_bucket, subject_id, platform, acq_datetime, job_type",
            "A lab, , ecephys, data/one, ,, default, 600001, ecephys, 2021-02-03 04:05:06, ecephys",
            "A lab, cap-1, behavior-videos, data/two, MRI, data/three, open, 600002, behavior, 3/4/2021 1:05:06 PM, "
            "default",
            "A lab, , behavior-videos, data/two, behavior, data/three, private, 600002, behavior, "
            "3/4/2021 1:05:07 PM, default",
        ),
        [A, B, C],
    ),
    "document, videos": ReferenceList(
        lines(
            "project_name, modality0, modality0.input_source, modality0.compression_requested.compression_enum, "
            "subject-id, platform, acq-datetime, job_type",
            "A lab, behavior-videos, data/one, gamma fix colorspace, 600001, ecephys, 2021-02-03 04:05:06, ecephys",
        ),
        [A],
    ),
}
