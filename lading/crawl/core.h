/* The crawl core's data: directories with packed children, and the work on them.
 *
 * Each file of the core has a header of its own and includes those below it: names, then paths, pack, then scan, shard,
 * known and render, then _walk.c (tests/integration/test_c_files.py).
 *
 * Input: a root directory. Output: one Dir per directory, children sorted.
 * Invariant: no recursion anywhere; a Dir is never freed before its Crawl.
 */
#ifndef LADING_CRAWL_CORE_H
#define LADING_CRAWL_CORE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define _FILE_OFFSET_BITS 64
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { OTHER = -1, DIRECTORY = 0, REGULAR = 1, SYMLINK = 2 };
enum { SNAPSHOT = -1 }; /* among the faults: a directory where the file system shows its snapshots */
enum { RECORD_LINKS, FOLLOW_LINKS, SKIP_LINKS };
/* REFUSED: could not be opened, shown as type -1. GONE: vanished, not shown. AWAY: another rank has it. */
enum { PRESENT, REFUSED, GONE, AWAY };

static const int64_t TOO_MANY = INT64_MIN;

typedef struct Dir Dir;
struct Dir {
    Dir *parent;
    uint8_t *blob;      /* packed children in canonical order, see pack.c */
    size_t blob_size;
    int64_t own, total; /* bytes of the files directly inside (TOO_MANY: 64 bits do not hold them), of all below */
    uint64_t entries;   /* entries below, this one included */
    uint64_t device, inode;
    int64_t mtime, ctime; /* before it was listed, if `stamped` */
    uint32_t counts[4]; /* children by type + 1 */
    uint32_t depth;
    uint32_t id;        /* place in the table of the lent (AWAY) or of the borrowed (a graft) */
    uint32_t length;    /* of the name */
    uint32_t known;     /* place in the earlier crawl, plus one; the blob is that one's until it is looked at */
    _Atomic int32_t descriptor, holders;
    uint8_t state;
    bool holds_parent;  /* one of the parent's holders until opened */
    bool vanished;      /* removed while it was listed: gone if nothing is left in it */
    bool graft;         /* found by another rank; its name is a path below the root */
    bool stamped;       /* inode and times tell whether its names have changed since */
    bool unchanged;     /* what the earlier crawl had of it holds */
    _Atomic bool taken; /* of the earlier crawl: it has its place in this one */
    _Atomic bool dropped; /* its name was listed twice */
    char name[];
};

typedef struct {
    int64_t size;     /* or the Dir of a directory, as a pointer */
    uint32_t name;    /* offset into the segment's names */
    uint16_t length;
    int8_t type;
    uint8_t flags;
} Entry;
enum { NEEDS_STATUS = 1, DROPPED = 2, HAS_LINKS = 4 };

/* One buffer of getdents, names packed. */
typedef struct Segment {
    struct Segment *next;
    uint32_t count;
    Entry *entries;
    int64_t *extra; /* extra_words of each entry: mtime, blocks, device, inode, as far as asked for */
    char *names;
} Segment;

/* A directory being listed; packed when its last holder is done. */
typedef struct {
    Dir *dir;
    Segment *first, *last;
    _Atomic int32_t holders;
    bool odd; /* a name is no UTF-8 */
    Dir **old; uint32_t old_count; /* its directories in the earlier crawl, in canonical order */
} Job;

/* Without a segment: open and list `dir`. With one: the status of its entries [from, to). */
typedef struct {
    Dir *dir;
    Job *job;
    Segment *segment;
    uint32_t from, to;
} Task;

typedef struct Crawl Crawl;
typedef struct {
    Crawl *crawl;
    pthread_t thread;
    Task *stack;
    size_t count, room;
    char *arena, *arena_end;
    uint8_t *scratch; /* the getdents buffer */
    double pace;      /* seconds an operation, recent mean */
    uint32_t timed;   /* operations since `since` */
    int64_t since;
    long switches;
    _Atomic(Dir *) current; /* what it lists now, since when: for the progress line */
    _Atomic int64_t current_since;
    _Atomic uint64_t entries;
    _Atomic uint64_t bytes; /* a sum that wraps: for the progress line only */
    Dir *slowest;
    int64_t slowest_time;
} Worker;

typedef struct { char *path; int error; } Fault;
typedef struct { uint32_t rank, id; Dir *dir; } Away;
typedef struct { Dir *dir; uint32_t rank, id; uint64_t *ancestors; size_t ancestor_count; } Graft;

struct Crawl {
    int root_descriptor, links, workers, log_depth;
    bool mtime, blocks, hard_links, count_once, one_file_system, stamps, started;
    int extra_words;
    uint64_t device;
    int32_t *globs; size_t glob_words;
    int64_t interval;          /* ns between operations, 0: no cap */
    _Atomic int64_t next_slot;
    Dir *root;
    Worker *worker;
    pthread_mutex_t lock;      /* all below */
    pthread_cond_t work, changed;
    Task *queue; size_t queue_head, queue_count, queue_room;
    _Atomic int64_t queued, outstanding, waiting;
    _Atomic int parked, allowed, guests;
    _Atomic bool stopping;
    bool ending;
    int descriptor_room; _Atomic int descriptors;
    Fault *faults; size_t fault_count, fault_room;
    Dir **lent; size_t lent_count, lent_room;
    Graft *grafts; size_t graft_count, graft_room;
    Dir **logged; size_t logged_count, logged_room;
    void **arenas; size_t arena_count, arena_room;
    _Atomic bool no_memory;
    Dir **known; size_t known_count; /* the directories of an earlier crawl in canonical order */
    uint64_t unchanged;
    Away *away; size_t away_count, away_room;         /* found in shards: lent by that rank */
    Away *returned; size_t returned_count, returned_room; /* found in shards: borrowed from that rank */
};

/* One child as read back from a blob. */
typedef struct {
    int type;
    int64_t size, mtime, blocks;
    uint64_t device, inode;
    const char *name;
    size_t length;
    Dir *dir;
    uint8_t *size_at; /* where the size lies, size_bytes long */
    int size_bytes;
    bool linked;
} Item;

/* A place among a directory's children, while they are gone through. */
typedef struct { Dir *dir; const uint8_t *at; uint32_t left; } Level;

#endif
