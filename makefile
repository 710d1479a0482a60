# Lading: crawl, plan, upload, verify, mirror. Plain `make` lists the targets.
#
# Settings: command line > environment > config.mk > the defaults below.
# Artefacts go to the directory make runs in, so one directory is one release:
#     make -C /scratch/dr1 -f /path/to/lading/makefile upload

comma  := ,
lading := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
# Make reads a space as the end of a name: the checkout is then looked for elsewhere.
ifneq ($(words $(lading)) $(wildcard $(lading)/lading/environment.py),1 $(lading)/lading/environment.py)
  $(error the path of this checkout holds a space, or another character that make cannot read ($(strip \
    $(MAKEFILE_LIST)), from $(CURDIR)): move the checkout to a path of letters, digits, '.', '_' and '-')
endif

ifneq ($(findstring $$,$(lading)),)
  $(error the path of this checkout holds a dollar sign, which make cannot read ($(lading)): move the checkout)
endif

# All that a user may set. A `$` in a value is a character, from the command line and the environment (taken as they
# are, `value`) and from config.mk (where `$(name)` of something that is set is replaced by its value, and nothing else is).
settings := root release subdir bucket endpoint addressing_style remap workers ranks max_workers min_batch max_batch \
            max_files max_batches max_time engine digests adopt storage_class tags metadata object_metadata cache_control content_type sse sse_kms_key_id checksum_algorithm request_payer jobs_csv presets manifest prefix to to_endpoint to_profile place source dest kind list reason scrub_period scrub_bytes key form out a b url rate objects_rate price_request price_storage \
            price_transfer currency class_prices links attributes sparse map_users find_flags batch_flags estimate_flags upload_flags verify_flags restore_flags \
            scrub_flags copy_flags export_flags diff_flags publish_flags compress_flags jobs_flags mirror_flags serve_flags listen portal mirror_config verb verb_flags venv python \
            from repair_flags reuse since \
            freeze owner group file_mode directory_mode checks write_sums signoff_flags \
            mpirun index watch here json only extras print yes_root digest_path notify ping metrics releases action fleet_flags
given    := $(foreach name,$(settings),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
from.env := $(foreach name,$(settings),$(if $(filter environment,$(firstword $(origin $(name)))),$(name)))
as_it_is = $(if $(filter command environment,$(firstword $(origin $(1)))),$(if $(findstring \
  $$,$(value $(1))),$(eval override $(1) := $$(value $(1)))$(eval export $(1))))
$(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name))))$(filter \
  $(name),$(settings)),$(call as_it_is,$(name))))

# The names that a text refers to as $(name); a text whose other $ are doubled, with these references put back.
references = $(foreach name,$(filter-out .% @% <% *% +% ?% ^% \%% |%,$(sort $(settings) $(.VARIABLES))),$(if \
  $(findstring $$($(name)),$(1))$(findstring $${$(name)},$(1)),$(name)))
restored   = $(if $(2),$(call restored,$(subst $$$${$(firstword $(2))},$${$(firstword $(2))},$(subst \
  $$$$($(firstword $(2))),$$($(firstword $(2))),$(1))),$(wordlist 2,$(words $(2)),$(2))),$(1))
include_as_text = $(foreach name,$(2),$(call as_it_is,$(name)))$(eval $(call restored,$(subst $$,$$$$,$(1)),$(2)))

# Settings of one release belong to the config.mk of its folder. The one beside this file serves every folder, so what it
# says of these would leak from one release into another: it is refused.
of_a_release := root release subdir bucket remap storage_class tags metadata object_metadata cache_control content_type jobs_csv manifest prefix to to_endpoint to_profile place source dest kind list reason index verb verb_flags links \
                attributes sparse map_users find_flags batch_flags estimate_flags upload_flags verify_flags restore_flags scrub_flags copy_flags export_flags diff_flags publish_flags compress_flags jobs_flags mirror_flags
of_a_release += from repair_flags reuse since
of_a_release += freeze signoff_flags

# Where each setting comes from, for `make config`: what a file changed is from that file.
state    = $(origin $(1)) $(value $(1))
same     = $(and $(findstring |$(1)|,|$(2)|),$(findstring |$(2)|,|$(1)|))
remember = $(foreach name,$(settings),$(eval before.$(name) := $$(call state,$(name))))
changed  = $(foreach name,$(settings),$(if $(call same,$(before.$(name)),$(call state,$(name))),,$(name)))
take     = $(remember)$(if $(filter 3.% 4.0% 4.1%,$(MAKE_VERSION)),$(eval include $(1)),$(call \
  include_as_text,$(file <$(1)),$(call references,$(file <$(1)))))
from.here :=
from.site :=
$(if $(wildcard config.mk),$(call take,config.mk)$(eval from.here := $$(changed)))
ifneq ($(realpath .),$(realpath $(lading)))
$(if $(wildcard $(lading)/config.mk),$(call take,$(lading)/config.mk)$(eval from.site := $$(changed)))
endif
from.line := $(given)
from.leak := $(filter $(of_a_release),$(from.site))
site_file := $(lading)/config.mk

# A setting that names a place and is empty is a mistake. It never means the working directory, the whole release or AWS.
example_root      := /data
example_release   := /data/dr1
example_subdir    := spectro/data
example_bucket    := s3://name or bucket=s3://name/prefix
example_remap     := {"spectro/data": "raw_spectro_data"}
example_endpoint  := https://s3.example.org
example_manifest  := manifest.jsonl.zst
example_prefix    := spectro/data
example_to        := /scratch/back
example_to_endpoint := https://s3.example.org
example_to_profile := second
example_place     := second
example_from      := second
example_reuse     := ../dr1/manifest.jsonl.zst
example_since     := find.json
example_form      := bagit
example_out       := bag
example_a         := dr1/manifest.jsonl.zst
example_b         := dr2/manifest.jsonl.zst
example_url       := https://bucket.s3.amazonaws.com
example_key       := ~/.ssh/id_ed25519
example_scrub_period := 180d
example_freeze    := 2026-11-28
example_owner     := desi
example_group     := desi
example_file_mode := 0644
example_directory_mode := 0755
example_checks    := hidden=off,link=note
example_scrub_bytes := 2T
said_to           := say where to (to= is missing or empty)
example_source    := /data/session
example_dest      := /scratch/session
example_kind      := ephys
example_list      := withdrawn.txt
example_reason    := "the subject took back consent"
example_jobs_csv  := sessions.csv
example_presets   := /etc/lading/presets
example_index     := https://bucket.s3.amazonaws.com
example_portal    := portal
example_releases  := /scratch/releases.yaml
example_action    := status
example_listen    := unix:portal.sock
# Who pays is the one who asks, or nobody says so.
$(if $(filter-out requester,$(request_payer)),$(error request_payer=$(request_payer) cannot pay; write request_payer=requester, or leave it out))
# What each target needs, and what else must not be empty there if it is given.
needs_find.json   := $(if $(filter undefined,$(origin release)),root,release)
needs_batch.json  := $(needs_find.json)
needs_estimate    := $(needs_find.json)
needs_signoff     := $(needs_find.json)
needs_upload      := root bucket
# In config.mk place= names what `make copy` writes. Other targets mean the first place until somebody asks for another.
other   = $(if $(filter command environment,$(firstword $(origin place))),$(place))
needs_verify      := $(if $(manifest)$(other),,root bucket)
needs_restore     := to
needs_copy        := to
needs_withdraw    := list reason
needs_compress    := source dest kind
needs_jobs        := jobs_csv
needs_sign        := key
needs_export      := form out
needs_diff        := a b
needs_report      := $(if $(index),root)
uses_find.json    := root release since
uses_batch.json   := root release subdir remap
uses_estimate     := root release remap bucket endpoint
uses_signoff      := root release bucket freeze owner group file_mode directory_mode checks
uses_upload       := endpoint remap reuse
uses_verify       := endpoint remap manifest key place
uses_restore      := prefix endpoint manifest from
uses_copy         := endpoint manifest place to_endpoint to_profile
uses_repair       := endpoint manifest place from to_profile
uses_sign         := manifest
uses_export       := manifest url
uses_publish      := manifest endpoint url
uses_diff         := endpoint
uses_scrub        := bucket endpoint manifest scrub_period scrub_bytes
uses_withdraw     := endpoint manifest place to_profile
uses_jobs         := bucket endpoint presets
uses_report       := index root remap
uses_fleet        := releases action
uses_serve        := bucket endpoint presets portal listen
empty   = $(if $(strip $($(1))),,$(1))
emptied = $(if $(filter undefined,$(origin $(1))),,$(call empty,$(1)))
$(foreach goal,$(MAKECMDGOALS),$(foreach name,$(firstword $(foreach \
  name,$(needs_$(goal)),$(call empty,$(name))) $(foreach name,$(uses_$(goal)),$(call emptied,$(name)))),$(error \
  $(or $(said_$(name)),no $(name) is given); write it like $(name)=$(example_$(name)))))
$(if $(from.leak),$(if $(foreach goal,$(MAKECMDGOALS),$(needs_$(goal))$(uses_$(goal))$(filter mirror,$(goal))),$(error \
  $(lading)/config.mk sets $(from.leak)$(if $(filter 1,$(words $(from.leak))),$(comma) a setting,$(comma) settings) of one \
  release; move this to $(CURDIR)/config.mk)))

# What is sent. Each line `#: …` is the meaning of the setting below it: `make reference` copies it to a page.
#: the directory that maps to the top of the bucket or prefix; keys are paths relative to it
root        ?=
#: the directory that is crawled, `root` or below it
release     ?= $(root)
#: only this part of the release
subdir      ?= .
#: `s3://name` or `s3://name/prefix`
bucket      ?=
#: URL of an S3 server that is not AWS; without it `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, then the AWS profile
endpoint    ?=
#: where the bucket's name is in URLs: `path` (host/bucket) or `virtual` (bucket.host); without it as the AWS profile says
addressing_style ?=
#: directories that land elsewhere in the bucket, as JSON: `{"path in the release": "path in the bucket"}`
remap       ?= {}

# How.
#: crawl threads per rank
workers     ?= 32
#: MPI ranks
ranks       ?= $(or $(SLURM_NTASKS),1)
#: files in flight
max_workers ?= 32

# Bounds of a batch, and of one run of `make upload`.
#: smallest size of a batch; `10G` is 10^10 bytes, `10GiB` is 10 · 2^30
min_batch   ?= 10G
#: largest size of a batch
max_batch   ?= 1T
#: most files of a batch
max_files   ?=
#: most batches in one run of `make upload`
max_batches ?= 1000
#: a run of `make upload` begins nothing after this long, like `8h`
max_time    ?=

#: the client that sends files: `s5cmd` (the default), `crt`, `boto3` or `obstore`
engine      ?=
#: digests of each file: `md5,crc64nvme,sha256` (the default), or `md5,crc64nvme` where nothing will need SHA-256
digests     ?=
#: an earlier manifest: `make upload` has the server copy what it holds of the same content; `1` is manifest.jsonl.zst here
reuse       ?=
#: what it takes to accept an object that was in the bucket before: `md5`, `checksum` (the server's) or `download`
adopt       ?=

# What each object is stored with.
#: storage class: one for all, or by pattern, like `*.fits.fz=GLACIER_IR;STANDARD_IA`
storage_class ?=
#: tags, like `project=desi,release=dr1`; by pattern as JSON: `{"*.fits": {"project": "desi"}}`
tags          ?=
#: metadata (`x-amz-meta-…`), written like tags
metadata      ?=
#: `rclone`: mtime, mode, uid and gid of each file go into the metadata of its object, as rclone keeps them
object_metadata ?=
#: the Cache-Control header, for all or by pattern
cache_control ?=
#: content types by pattern, like `*.fits=application/fits`; else they follow the name
content_type  ?=
#: how the server encrypts each object: `AES256` or `aws:kms`
sse                ?=
#: the key of `sse=aws:kms`
sse_kms_key_id     ?=
#: a checksum that goes with each object: `CRC64NVME`, `CRC32`, `CRC32C`, `SHA1` or `SHA256`
checksum_algorithm ?=
#: `requester`: you pay for the requests, as some buckets ask
request_payer      ?=

#: the job list of `make jobs`, csv or xlsx
jobs_csv    ?=
#: what the job types of a list mean: a directory, or `ssm:/NAME`
presets     ?=

#: a manifest that `make verify` compares with the bucket, without source or plan, or that `make restore` reads
manifest    ?=

#: what `make restore` brings back: a path in the release
prefix      ?=
#: where `make restore` writes, and `make copy` copies to
to          ?=
#: the server of that second place: a URL, or `aws`; without it that of the first
to_endpoint ?=
#: the AWS profile that writes there
to_profile  ?=
#: what the second place is called; without it by its bucket or directory. On the command line `make verify` compares that place, `make repair` repairs it, and `make withdraw` deletes there
place       ?=
#: the place that `make restore` reads; without it the first one
from        ?=

#: a file that names what `make withdraw` deletes, a path in the release or a key per line
list        ?=
#: why, in words that stay in journal and manifest
reason      ?=

# What `make signoff` expects of a release.
#: nothing changed after this date (its end, UTC) or time
freeze         ?=
#: the owner of every entry
owner          ?=
#: the group of every entry
group          ?=
#: the mode of every file
file_mode      ?=
#: the mode of every directory
directory_mode ?=
#: checks that are switched to `off`, `note` or `error`, like `hidden=off,link=note`; `lading signoff --list-checks` lists them
checks         ?=
#: with `write_sums=1` a checksum file is written for the files that have no checksum
write_sums     ?=

# What `make scrub` reads.
#: every byte of the manifest's objects is read once in this time
scrub_period ?= 180d
#: and at most so many in one run
scrub_bytes  ?= 2T

# What `make sign` and `make verify manifest=M` take.
#: a key of ssh or minisign: the private one to sign, the public one to verify
key         ?=

# What `make export`, `make publish` and `make diff` take.
#: the form that the manifest is written in: `sha256sums`, `directory-sums`, `bagit`, `csv`, `parquet`, `pooch`, `check`, `ro-crate`, `croissant` or `zarr-manifest`
form        ?=
#: the file or directory that `make export` writes
out         ?=
#: the public address of the bucket's top, where that is not its endpoint
url         ?=
#: the earlier side: a manifest (a path, an `s3://` or an `https://` address), a `find.json`, a directory, or `s3://bucket/prefix`
a           ?=
#: the later one
b           ?=

# Who is told.
#: who is told when a stage fails, and when it works again: addresses of apprise, or `env:NAME` and `file:PATH` that hold one
notify      ?=
#: a URL that is called when a stage begins (`/start`), when it is done, and when it failed (`/fail`)
ping        ?=
#: a file for node exporter's textfile collector, with the metrics of this release; its name must end in `.prom`
metrics     ?=

# Many releases.
#: the list of releases of `make fleet`, or a directory of them
releases    ?= releases.yaml
#: what `make fleet` does: `status`, `run` or `report`
action      ?= status

# One source to compress.
#: what `make compress` reads
source      ?=
#: what `make compress` writes
dest        ?=
#: the kind of data: `ephys`, `imaging`, `video` or `generic`
kind        ?=

# For `make estimate`: config.mk.example says whose prices these are and of when.
#: bytes per second, for `make estimate`
rate           ?= 1G
#: objects per second, for `make estimate`
objects_rate   ?= 500
#: price of 1,000 requests
price_request  ?= 0.005
#: price of a GB and month, each up to a size
price_storage  ?= 0.023 to 50T, 0.022 to 500T, 0.021
#: price of a GB sent
price_transfer ?= 0
#: currency of the prices
currency       ?= USD
#: prices of storage classes that differ from the table, as JSON: `{"GLACIER_IR": {"storage": 0.005}}`
class_prices   ?=

# What of a release is more than the bytes of its files.
#: symbolic links in the crawl: `record` (rows of the manifest, which restore makes again), `follow` or `skip`
links       ?=
#: with `attributes=1` the crawl records modes, owners, times and extended attributes, and restore puts them back
attributes  ?=
#: with `sparse=1` restore makes holes of all runs of zeros, not only where the source had holes
sparse      ?=
#: a table of users and groups for `make restore attributes=1`
map_users   ?=

#: `make find.json since=find.json` crawls again, and lists only directories that changed since that crawl
since       ?=

# More flags for one stage, word for word.
#: more flags of `lading find`
find_flags     ?=
#: more flags of `lading batch`
batch_flags    ?=
#: more flags of `lading estimate`
estimate_flags ?=
#: more flags of `lading upload`
upload_flags   ?=
#: more flags of `lading verify`
verify_flags   ?=
#: more flags of `lading restore`
restore_flags  ?=
#: more flags of `lading signoff`
signoff_flags  ?=
#: more flags of `lading scrub`
scrub_flags    ?=
#: more flags of `lading copy`
copy_flags     ?=
#: more flags of `lading repair`
repair_flags   ?=
#: more flags of `lading export`
export_flags   ?=
#: more flags of `lading diff`
diff_flags     ?=
#: more flags of `lading publish`
publish_flags  ?=
#: more flags of `lading compress`
compress_flags ?=
#: more flags of `lading jobs run`
jobs_flags     ?=
#: more flags of `lading fleet`
fleet_flags    ?=
#: flags of `lading mirror` that go before the verb
mirror_flags   ?=
#: more flags of `lading serve`
serve_flags    ?=

#: where the portal listens: `unix:PATH`, a socket that only you can open, or `HOST:PORT`
listen      ?= unix:portal.sock
#: where the portal keeps jobs, on a local disk
portal      ?= portal

# What `make setup` installs beside what every stage needs; other targets take what they need.
all_extras  := aind dask demo ephys fleet imaging mapper mirror mpi neo obstore optional portal video
#: what `make setup` installs beside what every stage needs
extras      ?= $(all_extras)
#: with `print=1` a target prints the command that it would run
print       ?=

#: settings of the mirror; without the file all datasets go to `mirror/`
mirror_config ?= $(wildcard mirror.yaml)
#: what `make mirror` does: `update`, `push`, `verify`, `populate` …
verb          ?= update
#: flags of that verb
verb_flags    ?=

# These have no default.
#: index: URL of a public bucket, for links on the pages of `make report`
#: watch: `make status watch=5s` shows the table again every so often
#: here: with `here=1` `make find.json` crawls on a login node
#: json: with `json=1` `make status` prints JSON
#: only: the benchmarks that `make bench` runs

#: where the Python environment is
venv   ?= $(lading)/.venv
ifneq ($(words $(venv)),1)
  $(error venv=$(venv): make cannot read a path with a space; give one without, like venv=$(lading)/.venv)
endif
#: the Python that runs the stages
python ?= $(venv)/bin/python
#: what starts several ranks
mpirun ?= $(if $(filter-out 1,$(ranks)),$(or $(wildcard $(venv)/bin/mpiexec),mpiexec) -n $(ranks))
mpi     = $(if $(mpirun),-m mpi4py)
#: how SHA-256 is computed: `sha_ni`, `avx512`, `avx2` or `plain`, to measure each; without it the quickest that the processor has
digest_path ?=
ifneq ($(strip $(digest_path)),)
  export LADING_DIGEST_PATH := $(digest_path)
endif
#: with `yes_root=1` a root is accepted that is hardly ever meant: `/`, or one that holds the working directory
yes_root ?=

export PYTHONPATH := $(lading)
export rate objects_rate price_request price_storage price_transfer currency class_prices
export root release subdir bucket endpoint addressing_style remap workers max_workers min_batch max_batch max_files \
       max_batches max_time engine digests adopt storage_class tags metadata object_metadata cache_control content_type sse sse_kms_key_id checksum_algorithm request_payer jobs_csv presets manifest prefix to to_endpoint to_profile place source dest kind list reason links map_users scrub_period scrub_bytes key form out a b url mirror_config listen portal index watch here verb only releases action
export find_flags batch_flags estimate_flags upload_flags verify_flags restore_flags scrub_flags copy_flags export_flags diff_flags publish_flags compress_flags jobs_flags \
       mirror_flags serve_flags verb_flags fleet_flags
export from repair_flags reuse since
export freeze owner group file_mode directory_mode checks write_sums signoff_flags
# By the environment alone: an address often holds a token, and command lines can be seen by all.
$(if $(strip $(notify)),$(eval export LADING_NOTIFY := $$(value notify)))
$(if $(strip $(ping)),$(eval export LADING_PING := $$(value ping)))
$(if $(strip $(metrics)),$(eval export LADING_METRICS := $$(value metrics)))
unexport notify ping metrics
# Nor is an empty one handed to a make that a recipe starts: there it would be a setting that was given.
$(foreach name,$(settings),$(if $(strip $($(name))),,$(eval unexport $(name))))

.DELETE_ON_ERROR:
# Written whole or not at all; find.py ends with 3 when paths could not be read; the rest of the tree is good.
.PRECIOUS: find.json batch.json $(venv)/.ready $(venv)/.ready-%
.SUFFIXES:
# Stages follow one another as they are named, with -j too: `upload verify` means first this, then that.
.NOTPARALLEL:
.PHONY: help setup upload verify scrub copy repair sign export publish diff restore withdraw estimate compress jobs mirror status report logs fleet serve demo test test-long check \
        signoff docs reference bench clean lock config force told.find
.DEFAULT_GOAL := help

# A setting may hold quotes or $: recipes hand it over as "$$name", from the
# environment, never as text in the command. More flags are split into words
# ("$$@") without a shell; programs are part of the command, with their $ escaped.
more    = $(if $(strip $(foreach name,$(1),$($(name)))),more=$$(python3 $(lading)/lading/core/make_words.py $(1)) && eval "set -- $$more" &&)
program = $(subst $$,\$$,$(1))
shown   = $(if $(print),python3 $(lading)/lading/core/make_words.py --words env "PYTHONPATH=$$PYTHONPATH" \
          $(if $(strip $(notify)),"LADING_NOTIFY=$$LADING_NOTIFY") $(if $(strip $(ping)),"LADING_PING=$$LADING_PING") \
          $(if $(strip $(metrics)),"LADING_METRICS=$$LADING_METRICS"))
run     = $(shown) $(call program,$(python))
mapped  = $(if $(strip $(root)),--upload-root "$$root") --remap "$$remap"
styled  = $(if $(addressing_style),--addressing-style "$$addressing_style") $(if $(request_payer),--request-payer)
# A second place says in its manifest where it is: there endpoint= and bucket= count only beside it, on the command line.
placed  = $(if $(other)$(from)$(filter manifest.%.jsonl.zst,$(notdir $(manifest))),placed)
meant   = $(if $(placed),$(filter command,$(firstword $(origin $(1)))),$(strip $($(1))))
at      = $(if $(and $(endpoint),$(call meant,endpoint)),--endpoint-url "$$endpoint") \
          $(if $(and $(addressing_style),$(call meant,addressing_style)),--addressing-style "$$addressing_style") \
          $(if $(and $(request_payer),$(call meant,request_payer)),--request-payer)
stored  = $(if $(storage_class),--storage-class "$$storage_class") $(if $(tags),--tags "$$tags") $(if $(metadata),--metadata "$$metadata") \
          $(if $(object_metadata),--object-metadata "$$object_metadata") \
          $(if $(cache_control),--cache-control "$$cache_control") $(if $(content_type),--content-type "$$content_type") \
          $(if $(sse),--sse "$$sse") $(if $(sse_kms_key_id),--sse-kms-key-id "$$sse_kms_key_id") \
          $(if $(checksum_algorithm),--checksum-algorithm "$$checksum_algorithm")
ranked  = $(shown) $(call program,$(mpirun) $(python)) $(mpi)

# The stamps of what a target needs: $(call ready,EXTRA…). Several ranks need MPI.
ready   = $(venv)/.ready $(patsubst %,$(venv)/.ready-%,$(sort $(1)))
over    = $(if $(mpirun),mpi) $(told)
told    = $(if $(strip $(notify)$(metrics)),fleet)
# A list of sessions may hold every kind of data.
session := aind ephys imaging video

help: ## Show this list
	@awk -F':.*## ' '/^[a-z.-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(lading)/makefile

setup: $(call ready,$(extras)) ## Build the Python environment (any target does what it needs); extras= for some

# The program writes the stamps itself, under a lock: other makes may be at work on the same environment. One call
# brings all that the named targets are known to need, so that packages are installed at once.
at_once = $(if $(filter setup,$(MAKECMDGOALS)),$(extras)) $(if $(filter demo test test-long bench lock docs reference,$(MAKECMDGOALS)),$(all_extras)) \
          $(if $(filter serve,$(MAKECMDGOALS)),portal $(session)) $(if $(filter jobs,$(MAKECMDGOALS)),$(session)) \
          $(if $(filter test test-long check,$(MAKECMDGOALS)),docs tests) $(if $(filter docs,$(MAKECMDGOALS)),docs)
builder = $(lading)/requirements.txt $(lading)/lading/environment.py $(lading)/lading/core/requirements.py
$(venv)/.ready: $(builder) $(wildcard $(lading)/lading/*/*.[ch] $(lading)/lading/*/*/*.[ch]) $(lading)/pyproject.toml
	@python3 $(lading)/lading/launch.py --venv $(call program,$(venv)) --extras "$(sort $(at_once))"

$(venv)/.ready-tests: $(lading)/tests/requirements.txt
$(addprefix $(venv)/.ready-,$(sort $(all_extras) $(extras) docs tests)): $(builder) | $(venv)/.ready
	@python3 $(lading)/lading/launch.py --venv $(call program,$(venv)) --extras "$(sort $(patsubst .ready-%,%,$(notdir $@)) $(at_once))"

lock: | $(call ready,$(all_extras)) ## Write requirements.txt from pyproject.toml: versions and hashes (minutes)
	$(run) -m lading.cli.requirements_lock

# What the crawl records beside names and sizes.
recorded = $(if $(links),--links "$$links") $(if $(attributes),--metadata)
# The stamps change only when a setting does, so that editing this file re-crawls nothing.
.settings.find: force
	@printf '%s\n' "$$release" "$$find_flags" $(recorded) | cmp -s - $@ || printf '%s\n' "$$release" "$$find_flags" $(recorded) > $@
.settings.batch: force
	@printf '%s\n' "$$subdir" "$$min_batch" "$$max_batch" "$$max_files" "$$batch_flags" | cmp -s - $@ \
	 || printf '%s\n' "$$subdir" "$$min_batch" "$$max_batch" "$$max_files" "$$batch_flags" > $@

# With since= whoever asks for find.json by name has the release crawled again.
find.json: .settings.find $(if $(and $(since),$(filter find.json,$(MAKECMDGOALS))),force) | $(call ready,$(over)) ## Crawl the release into a size tree (compute node)
	@[ -n "$$here$$SLURM_JOB_ID" ] || ! command -v sbatch > /dev/null || { \
	  echo "this looks like a login node; crawl on a compute node:" >&2; \
	  echo "  sbatch --chdir=$$(python3 $(lading)/lading/core/make_words.py --quote "$$PWD") $(lading)/slurm/find.sbatch" \
	    "$$(python3 $(lading)/lading/core/make_words.py --assign $(filter-out here,$(given)))" >&2; \
	  echo "or crawl here: make find.json here=1" >&2; exit 2; }
	$(call more,find_flags) $(ranked) -m lading find "$$release" --max-workers "$$workers" $(if $(yes_root),--yes-root) $(recorded) $(if $(since),--since "$$since") "$$@" -o $@

# An incomplete tree counts as up to date: whoever asks for it by name is told each time what is missing.
ifneq ($(filter find.json,$(MAKECMDGOALS)),)
find.json: | told.find
endif
told.find: .settings.find | $(venv)/.ready
	@[ ! -e find.json ] || [ find.json -ot .settings.find ] || $(run) -m lading find "$$release" --check -o find.json

batch.json: find.json .settings.batch | $(call ready,$(told)) ## Plan batches of the tree (login node)
	$(call more,batch_flags) $(run) -m lading batch "$$release" --file-tree $< $(if $(filter-out .,$(subdir)),--subdir "$$subdir") --min-batch-size "$$min_batch" \
	  --max-batch-size "$$max_batch" $(if $(max_files),--max-batch-files "$$max_files") \
	  $(mapped) "$$@" -o $@

estimate: | $(venv)/.ready ## Estimate the upload of batch.json: objects, requests, price, hours
	@$(call more,estimate_flags) $(run) -m lading estimate "$$release" -o batch.json $(mapped) \
	  $(if $(bucket),--bucket "$$bucket" $(if $(endpoint),--endpoint-url "$$endpoint") $(styled)) \
	  --rate "$$rate" --objects-rate "$$objects_rate" --price-request "$$price_request" --price-storage "$$price_storage" \
	  --price-transfer "$$price_transfer" --currency "$$currency" $(if $(class_prices),--class-prices "$$class_prices") "$$@"

signoff: | $(call ready,$(over)) ## Check a release before it is uploaded, and keep the digests of its files
	$(call more,signoff_flags) $(ranked) -m lading signoff "$$release" --max-workers "$$workers" $(if $(yes_root),--yes-root) \
	  $(if $(bucket),--bucket "$$bucket") $(if $(freeze),--freeze "$$freeze") $(if $(owner),--owner "$$owner") $(if $(group),--group "$$group") \
	  $(if $(file_mode),--file-mode "$$file_mode") $(if $(directory_mode),--directory-mode "$$directory_mode") \
	  $(if $(checks),--checks "$$checks") $(if $(write_sums),--write-sums) "$$@"

upload: | $(call ready,$(over) $(if $(findstring obstore,$(engine) $(upload_flags)),obstore)) ## Send batches and verify each object; repeat until done (login node)
	$(call more,upload_flags) $(ranked) -m lading upload "$$root" --bucket "$$bucket" --batch batch.json --remap "$$remap" \
	  $(if $(yes_root),--yes-root) $(if $(endpoint),--endpoint-url "$$endpoint") $(styled) --max-batches "$$max_batches" --max-workers "$$max_workers" \
	  $(if $(max_time),--max-time "$$max_time") $(if $(engine),--engine "$$engine") $(if $(digests),--digests "$$digests") $(if $(adopt),--adopt "$$adopt") \
	  $(if $(reuse),--reuse "$(if $(filter 1,$(reuse)),manifest.jsonl.zst,$$reuse)") $(stored) "$$@"

verify: | $(call ready,$(told)) ## Compare the bucket with the release and write the manifest; or with manifest=M alone
	$(call more,verify_flags) $(run) -m lading verify \
	  $(if $(manifest)$(other),$(if $(manifest),--manifest "$$manifest") $(if $(other),--place "$$place",$(if $(and $(bucket),$(call meant,bucket)),--bucket "$$bucket")) $(if $(key),--key "$$key"),"$$root" --bucket "$$bucket" --batch batch.json --remap "$$remap") \
	  $(at) $(if $(manifest)$(other),,$(if $(adopt),--adopt "$$adopt")) "$$@"

scrub: | $(call ready,$(over)) ## List the bucket, read a part by the manifest, log what was read when (cron)
	$(call more,scrub_flags) $(ranked) -m lading scrub $(if $(manifest),--manifest "$$manifest") $(if $(and $(bucket),$(call meant,bucket)),--bucket "$$bucket") \
	  $(at) --period "$$scrub_period" --bytes "$$scrub_bytes" "$$@"

sign: | $(venv)/.ready ## Sign the manifest by key= of ssh or minisign; verify manifest=M key=PUB checks it
	$(run) -m lading sign $(if $(manifest),--manifest "$$manifest") --key "$$key"

export: | $(venv)/.ready ## Write the manifest as form= (bagit, parquet, ro-crate …) into out=
	$(call more,export_flags) $(run) -m lading export "$$form" $(if $(manifest),--manifest "$$manifest") -o "$$out" $(if $(url),--url "$$url") "$$@"

publish: | $(venv)/.ready ## Put manifest, checksums and check.py beside the data, for readers without an account
	$(call more,publish_flags) $(run) -m lading publish $(if $(manifest),--manifest "$$manifest") $(if $(url),--url "$$url") \
	  $(if $(endpoint),--endpoint-url "$$endpoint") $(styled) "$$@"

diff: | $(venv)/.ready ## Say what changed between two manifests, trees, directories or buckets: a=OLD b=NEW
	$(call more,diff_flags) $(run) -m lading diff "$$a" "$$b" $(if $(endpoint),--endpoint-url "$$endpoint") $(styled) "$$@"

restore: | $(venv)/.ready ## Restore a path from the bucket, verified: prefix=sub/dir to=/scratch/back
	$(call more,restore_flags) $(run) -m lading restore $(if $(manifest),--manifest "$$manifest") $(if $(from),--from "$$from") $(if $(prefix),--prefix "$$prefix") --to "$$to" $(if $(attributes),--metadata) \
	  $(if $(map_users),--map-users "$$map_users") $(if $(sparse),--sparse) \
	  $(at) $(if $(class_prices),--class-prices "$$class_prices") "$$@"

copy: | $(call ready,$(if $(filter gs:% az:%,$(to)),obstore)) ## Copy the manifest's objects to a second place, verified at both ends: to=s3://other/dr1
	$(call more,copy_flags) $(run) -m lading copy $(if $(manifest),--manifest "$$manifest") --to "$$to" $(if $(place),--name "$$place") \
	  $(if $(to_endpoint),--to-endpoint-url "$$to_endpoint") $(if $(to_profile),--to-profile "$$to_profile") \
	  $(if $(endpoint),--endpoint-url "$$endpoint") $(styled) $(if $(sse),--sse "$$sse") $(if $(sse_kms_key_id),--sse-kms-key-id "$$sse_kms_key_id") "$$@"

repair: | $(venv)/.ready ## Bring damaged objects of place= (origin) back from another place, from=, verified
	$(call more,repair_flags) $(run) -m lading repair $(if $(manifest),--manifest "$$manifest") $(if $(other),--place "$$place") $(if $(from),--from "$$from") \
	  $(if $(to_profile),--to-profile "$$to_profile") $(if $(endpoint),--endpoint-url "$$endpoint") $(styled) "$$@"

compress: | $(call ready,$(over) $(filter $(kind),ephys imaging video) $(if $(findstring dask,$(compress_flags)),dask)) ## Compress source= to dest= as kind=, verified (compute node)
	$(call more,compress_flags) $(ranked) -m lading compress "$$source" "$$dest" --kind "$$kind" "$$@"

jobs: | $(call ready,$(over) $(session)) ## Run the sessions of jobs_csv=: compress, describe, upload, verify
	$(call more,jobs_flags) $(ranked) -m lading jobs run "$$jobs_csv" --max-workers "$$max_workers" $(if $(presets),--presets "$$presets") \
	  $(if $(bucket),--bucket "$$bucket") $(if $(endpoint),--endpoint-url "$$endpoint") "$$@"

withdraw: | $(venv)/.ready ## Delete the objects that list= names, with a reason=, where they are the verified ones
	$(run) -m lading withdraw "$$list" --reason "$$reason" $(if $(manifest),--manifest "$$manifest") $(if $(other),--place "$$place") $(if $(to_profile),--to-profile "$$to_profile") $(at)

mirror: | $(call ready,mirror $(told)) ## Write the manifest's files as DataLad datasets (login node, cron); verb=verify checks them
	$(call more,mirror_flags verb verb_flags) $(run) -m lading mirror $(if $(mirror_config),--config "$$mirror_config",--store mirror) "$$@"

# What `lading config` prints: each setting's name, value and origin, in the environment for quotes and dollars.
ifneq ($(filter config,$(MAKECMDGOALS)),)
shown_to = $(eval export $(1) := $$($(2)))
$(foreach name,$(settings),$(call shown_to,lading_value_$(name),$(name)))
$(call shown_to,lading_settings,settings) $(call shown_to,lading_file,site_file)
$(foreach name,line env here site leak,$(call shown_to,lading_$(name),from.$(name)))
endif
# The command names its own Python, and needs no other environment.
config: | $(if $(lading_python),,$(venv)/.ready) ## Show each setting, and where it comes from
	@$(if $(lading_python),"$$lading_python",$(run)) -m lading config --from-make $(if $(json)$(lading_json),--json)

status: | $(venv)/.ready ## Show how much of the release is done: json=1 for machines, watch=5s to repeat
	@$(run) -m lading status $(if $(json),--json) $(if $(watch),--watch "$$watch")

report: | $(venv)/.ready ## Write report/index.html and a browser over the tree; index=URL of a public bucket adds links
	@$(run) -m lading report $(if $(index),--index "$$index" --root "$$root" --remap "$$remap")

logs: | $(venv)/.ready ## Say what the last run of each stage did, each failure once
	@$(run) -m lading logs

fleet: | $(call ready,fleet) ## Look after many releases: releases=LIST action=status, run or report
	@$(call more,fleet_flags) $(run) -m lading fleet "$$action" --releases "$$releases" "$$@"

serve: | $(call ready,portal $(session)) ## Serve the portal: submit and follow job lists in a browser or by REST
	@$(call more,serve_flags) $(run) -m lading serve --listen "$$listen" --home "$$portal" $(if $(bucket),--bucket "$$bucket") \
	  $(if $(endpoint),--endpoint-url "$$endpoint") $(if $(presets),--presets "$$presets") "$$@"

demo: | $(call ready,$(all_extras)) ## Run every stage on a small lab tree, with an S3 server on this machine
	@$(run) -m lading demo

test: $(call ready,$(all_extras) docs tests) check ## Check the code and run the tests (minutes)
	$(run) -m pytest -q -n 4 --dist loadgroup -m "not long" $(lading)/tests

test-long: $(call ready,$(all_extras) docs tests) ## Run the long tests: kills, failing servers, integration
	$(run) -m pytest -q -n 4 --dist loadgroup -m long $(lading)/tests

# Of the documents: links, sentences, words, generated pages.
read_tests := $(patsubst $(lading)/%,%,$(wildcard $(addprefix $(lading)/tests/unit/,test_documents.py test_readability.py \
              test_words.py cli/test_reference_pages.py)))
check: $(call ready,$(all_extras) docs tests) ## Lint, types, import rules, and whether the documents can be read
	@cd $(lading) && $(call program,$(venv))/bin/ruff check --quiet . && $(call program,$(venv))/bin/ruff format --check --quiet . && $(call program,$(venv))/bin/mypy
	@cd $(lading) && $(run) -m pytest -q -p no:cacheprovider $(read_tests)

docs: reference | $(call ready,$(all_extras) docs) ## Build the site of these documents: site/index.html, search included
	@cd $(lading) && NO_MKDOCS_2_WARNING=1 $(call program,$(python)) -m mkdocs --quiet build --strict && echo "$(lading)/site/index.html"

reference: | $(call ready,$(all_extras)) ## Write the pages of docs/reference that follow from the code
	$(run) -m lading.cli.reference_pages

bench: $(call ready,$(all_extras)) ## Measure each stage beside its peers, as ratios (long; only=crawl for one)
	$(call more,only) $(run) -m benchmarks "$$@"

clean: ## Remove what builds and tests left (no artefact, no environment)
	@rm -rf $(lading)/build $(lading)/site $(lading)/.pytest_cache $(lading)/.mypy_cache $(lading)/.ruff_cache $(lading)/.hypothesis
	@find $(lading)/lading $(lading)/jobs $(lading)/tests $(lading)/demo -name __pycache__ -type d -prune -exec rm -rf {} +

force:
