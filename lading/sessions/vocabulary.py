"""The words of a job list: modalities, platforms, tasks, and the nearest word to a wrong one.

Input: text as people write it. Output: the field's own spelling.
Invariant: matching ignores case and takes ``_`` for ``-``; modalities are those of
aind-data-schema-models, with the older names that published job lists still use.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache

# aind-data-schema-models dropped its platforms module in version 6; these are the
# abbreviations as the AIND transfer service writes them into prefixes.
PLATFORMS = (
    "behavior",
    "confocal",
    "ecephys",
    "exaSPIM",
    "FIP",
    "HCR",
    "HSFP",
    "mesoSPIM",
    "ISI",
    "MERFISH",
    "motor-observatory",
    "MRI",
    "multiplane-ophys",
    "single-plane-ophys",
    "SLAP2",
    "SmartSPIM",
)

# Renamed in aind-data-schema-models since: what lists still say → what it is called now.
RENAMED_MODALITIES = {"ophys": "pophys", "slap": "slap2", "trained-behavior": "behavior"}

# In the order in which a job does them.
TASKS = (
    "send_job_start_email",
    "check_s3_folder_exists",
    "check_source_folders_exist",
    "create_staging_folder",
    "gather_preliminary_metadata",
    "copy_derivatives_folder",
    "modality_transformation_settings",
    "compress_data",
    "gather_final_metadata",
    "check_metadata_files",
    "upload_data_to_s3",
    "register_data_asset_to_codeocean",
    "update_docdb_record",
    "codeocean_pipeline_settings",
    "run_codeocean_pipeline",
    "remove_staging_folder",
    "remove_source_folders",
    "send_job_end_email",
)
# Done once per modality (run_codeocean_pipeline: once per pipeline), side by side.
MAPPED_TASKS = ("compress_data", "run_codeocean_pipeline")
# Whose settings presets keep per modality; the mapped task takes them from here.
SETTINGS_TASKS = {
    "modality_transformation_settings": "compress_data",
    "codeocean_pipeline_settings": "run_codeocean_pipeline",
}
# Tasks of the AIND service that are called otherwise here: its name → ours, of which the first gets the settings.
TASK_ALIASES = {
    "register_data_asset": ("register_data_asset_to_codeocean", "update_docdb_record"),
    "get_codeocean_asset_id": ("register_data_asset_to_codeocean", "update_docdb_record"),
}
# Settings of the service's register_data_asset that are those of the record in the document database.
DOCDB_KEYS = ("docdb_version",)
TASK_FIELDS = ("skip_task", "image", "image_version", "image_resources", "job_settings", "command_script")

LONGEST_WORD = 100
NOTIFICATIONS = ("begin", "end", "fail", "retry", "all")
# What an object must have shown before its source may go, each more than the one before.
DELETION_LEVELS = ("etag", "checksum", "download")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def folded(word: str) -> str:
    """Return the form in which two spellings of one word are equal."""
    return word.strip().lower().replace("_", "-")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known word closest to ``word``, or an empty string."""
    by_form = {folded(name): name for name in known}
    # Longer than any name, a word is near to none; comparing it would only take time.
    matches = get_close_matches(folded(word), by_form, n=1, cutoff=0.6) if len(word) <= LONGEST_WORD else []
    return f"; did you mean {by_form[matches[0]]!r}?" if matches else ""


@cache
def modalities() -> dict[str, str]:
    """Return folded spelling → abbreviation, of every modality."""
    from aind_data_schema_models.modalities import Modality

    current = {folded(name): name for name in Modality.abbreviation_map}
    return current | {folded(old): new for old, new in RENAMED_MODALITIES.items() if folded(new) in current}


# Spellings that earlier versions wrote into prefixes: what is in a bucket may still have them.
FORMER_PLATFORMS = {"SmartSPIM": "smartSPIM", "MERFISH": "merfish"}


def platforms(own: Iterable[str] = ()) -> dict[str, str]:
    """Return folded spelling → abbreviation, of every platform; those of the site go before the others."""
    return {folded(name): name for name in (*PLATFORMS, *own)}


def modality(text: str) -> str:
    """Return the abbreviation of a modality; ``ValueError`` with the nearest one otherwise."""
    return _known(text, modalities(), "modality")


def platform(text: str, own: Iterable[str] = ()) -> str:
    """Return the abbreviation of a platform; ``ValueError`` with the nearest one otherwise."""
    return _known(text, platforms(own), "platform")


def other_spellings(name: str) -> list[str]:
    """Return how else a platform may stand in the prefixes of a bucket."""
    pairs = (*FORMER_PLATFORMS.items(), *((old, new) for new, old in FORMER_PLATFORMS.items()))
    known = {folded(name): name for name in PLATFORMS}.get(folded(name))
    found = [old for new, old in pairs if folded(new) == folded(name)] + ([known] if known else [])
    return [one for one in dict.fromkeys(found) if one != name]


def _known(text: str, words: dict[str, str], kind: str) -> str:
    try:
        return words[folded(text)]
    except KeyError:
        hint = nearest(text, words.values()) or f"; one of {', '.join(sorted(set(words.values()), key=folded))}"
        raise ValueError(f"{text!r} is not a {kind}{hint}") from None
