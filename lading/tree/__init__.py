"""The artefacts that the stages share; docs/formats.md describes each."""
