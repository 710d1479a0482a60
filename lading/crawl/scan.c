/* The walk: threads that list directories and ask for the status of entries.
 *
 * Input: directories in the queue. Output: packed directories, faults.
 * Invariant: one thread lists a directory and takes its entries in the order
 * they came, which lets Lustre and GPFS read ahead; a range of entries is split
 * off only for a thread that has nothing to do, and only when it is worth more
 * than the hand-over (WORTH). A directory's subdirectories can be taken by
 * others as soon as the buffer with their names has arrived. A directory that
 * an earlier crawl knows is not listed when inode and times are as they were:
 * its blob stays. Where memory is missing the walk gives up as a whole: it
 * never goes on without a directory.
 */
#include "scan.h"
#include "../core/times.h"
#include "known.h"
#include "names.h"
#include "pack.h"
#include "paths.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 16, SAMPLE = 16, STACK = 1 << 18, HOP = 3900 };
/* A range of entries is handed over when it is worth this much time; fewer than LEAST entries never are. */
static const double WORTH = 10e-3;
enum { LEAST = 8 };
/* Operations slower than this, with the thread asleep, mean that more threads than cores pay. */
static const double SLOW = 40e-6;

int64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* ---- tasks ---- */

int push_queue(Crawl *crawl, Task task) {
    if (crawl->queue_head + crawl->queue_count == crawl->queue_room) {
        if (crawl->queue_head > crawl->queue_room / 2) {
            memmove(crawl->queue, crawl->queue + crawl->queue_head, crawl->queue_count * sizeof task);
            crawl->queue_head = 0;
        } else {
            size_t room = crawl->queue_room ? 2 * crawl->queue_room : 1024;
            Task *queue = realloc(crawl->queue, room * sizeof *queue);
            if (!queue) return -1;
            crawl->queue = queue, crawl->queue_room = room;
        }
    }
    crawl->queue[crawl->queue_head + crawl->queue_count++] = task;
    atomic_store(&crawl->queued, (int64_t)crawl->queue_count);
    return 0;
}

static bool has_room(Worker *worker) {
    if (worker->count < worker->room) return true;
    size_t room = worker->room ? 2 * worker->room : 256;
    Task *stack = realloc(worker->stack, room * sizeof *stack);
    if (!stack) return false;
    worker->stack = stack, worker->room = room;
    return true;
}

/* -1 without memory: the task is not taken then. */
static int push(Worker *worker, Task task) {
    if (!has_room(worker)) return -1;
    worker->stack[worker->count++] = task;
    atomic_fetch_add(&worker->crawl->outstanding, 1);
    if (!task.segment) atomic_fetch_add_explicit(&worker->crawl->waiting, 1, memory_order_relaxed);
    return 0;
}

/* How many more tasks the queue could use: for threads without work, and for other ranks. */
static inline int64_t wanted(Crawl *crawl) {
    int parked = atomic_load_explicit(&crawl->parked, memory_order_relaxed);
    int spare = atomic_load_explicit(&crawl->allowed, memory_order_relaxed) - (crawl->workers - parked);
    if (parked < spare) spare = parked;
    if (spare < 0) spare = 0;
    return spare + atomic_load_explicit(&crawl->guests, memory_order_relaxed) -
           atomic_load_explicit(&crawl->queued, memory_order_relaxed);
}

static void wake(Crawl *crawl, int64_t count) {
    if (count > 3) pthread_cond_broadcast(&crawl->work);
    else while (count-- > 0) pthread_cond_signal(&crawl->work);
}

/* Give the older half of the stack, or a part of the range at hand, to whoever has nothing to do. */
static void give_work(Worker *worker, Task *range) {
    Crawl *crawl = worker->crawl;
    int64_t want = wanted(crawl);
    if (want <= 0) return;
    if (worker->count) {
        size_t half = (worker->count + 1) / 2;
        pthread_mutex_lock(&crawl->lock);
        size_t given = 0;
        while (given < half && !push_queue(crawl, worker->stack[given])) given++;
        pthread_mutex_unlock(&crawl->lock);
        half = given; /* what the queue had no memory for stays here */
        if (!half) return;
        worker->count -= half;
        memmove(worker->stack, worker->stack + half, worker->count * sizeof(Task));
        wake(crawl, (int64_t)half < want ? (int64_t)half : want);
        return;
    }
    if (!range) return;
    uint32_t left = range->to - range->from, least = LEAST;
    if (worker->pace * LEAST < WORTH) {
        double entries = WORTH / (worker->pace > 1e-7 ? worker->pace : 1e-7);
        least = entries > 1e9 ? 1000000000u : (uint32_t)entries;
    }
    int64_t parts = left / least;
    if (parts > want + 1) parts = want + 1;
    if (parts < 2) return;
    uint32_t each = left / (uint32_t)parts;
    pthread_mutex_lock(&crawl->lock);
    for (int64_t part = 1; part < parts; part++) {
        Task task = *range;
        task.from = range->to - each;
        if (push_queue(crawl, task)) break;
        range->to = task.from;
        atomic_fetch_add(&range->job->holders, 1);
        atomic_fetch_add(&crawl->outstanding, 1);
    }
    pthread_mutex_unlock(&crawl->lock);
    wake(crawl, parts - 1);
}

/* ---- pace ---- */

/* Wait for this operation's slot of the rate cap. */
static void keep_rate(Crawl *crawl) {
    int64_t now = clock_ns(), slot = atomic_load(&crawl->next_slot), mine;
    do mine = slot > now - 10000000 ? slot : now;
    while (!atomic_compare_exchange_weak(&crawl->next_slot, &slot, mine + crawl->interval));
    while (mine > now && !atomic_load_explicit(&crawl->stopping, memory_order_relaxed)) {
        int64_t pause = mine - now < 100000000 ? mine - now : 100000000;
        struct timespec time = {pause / 1000000000, pause % 1000000000};
        nanosleep(&time, NULL);
        now = clock_ns();
    }
}

static void begin_sample(Worker *worker) {
    worker->timed = 0;
    worker->since = clock_ns();
}

/* Count one operation; now and then measure the pace and whether the threads sleep in the file system. */
static inline void end_operation(Worker *worker) {
    if (++worker->timed < SAMPLE) return;
    Crawl *crawl = worker->crawl;
    double pace = (double)(clock_ns() - worker->since) * 1e-9 / worker->timed;
    worker->pace = worker->pace ? 0.5 * (worker->pace + pace) : pace;
    if (pace > SLOW && atomic_load_explicit(&crawl->allowed, memory_order_relaxed) < crawl->workers) {
        /* A thread that lost its core is slow too, but did not go to sleep of its own. */
        struct rusage usage;
        getrusage(RUSAGE_THREAD, &usage);
        if (worker->switches >= 0 && usage.ru_nvcsw - worker->switches >= SAMPLE / 2) {
            pthread_mutex_lock(&crawl->lock);
            atomic_store(&crawl->allowed, crawl->workers);
            pthread_cond_broadcast(&crawl->work);
            pthread_mutex_unlock(&crawl->lock);
        }
        worker->switches = usage.ru_nvcsw;
    }
    begin_sample(worker);
}

/* ---- opening ---- */

static void release(Crawl *crawl, Dir *dir) {
    if (atomic_fetch_sub(&dir->holders, 1) == 1) {
        close(dir->descriptor);
        dir->descriptor = -1;
        atomic_fetch_sub(&crawl->descriptors, 1);
    }
}

void drop_parent(Crawl *crawl, Dir *dir) {
    if (!dir->holds_parent) return;
    dir->holds_parent = false;
    release(crawl, dir->parent);
}

static int open_retrying(Crawl *crawl, int at, const char *path, int flags) {
    for (int tries = 0;;) {
        int descriptor = openat(at, path, flags);
        if (descriptor >= 0) return descriptor;
        if (errno == EINTR) continue;
        if (errno == ESTALE && tries++ < 2) continue;
        /* Others close theirs within the time of a few directories. */
        if ((errno == EMFILE || errno == ENFILE) && tries++ < 2000 && !atomic_load(&crawl->stopping)) {
            struct timespec pause = {0, 5000000};
            nanosleep(&pause, NULL);
            continue;
        }
        return -1;
    }
}

/* Open by the path below the root, in hops that fit PATH_MAX. */
static int open_by_path(Crawl *crawl, const Dir *dir, int flags) {
    char *path = path_of(dir, NULL, NULL);
    if (!path) { give_up(crawl); errno = ENOMEM; return -1; }
    char *at = path;
    int base = crawl->root_descriptor, found;
    for (;;) {
        if (strlen(at) <= HOP) {
            found = open_retrying(crawl, base, *at ? at : ".", flags);
            break;
        }
        char *cut = at + HOP;
        while (*cut != '/') cut--;
        *cut = 0;
        int next = open_retrying(crawl, base, at, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (base != crawl->root_descriptor) { int kept = errno; close(base); errno = kept; }
        base = next;
        if (base < 0) { free(path); return -1; }
        at = cut + 1;
    }
    if (base != crawl->root_descriptor) { int kept = errno; close(base); errno = kept; }
    free(path);
    return found;
}

static bool loops(const Crawl *crawl, const Dir *dir) {
    for (const Dir *above = dir; above->parent; above = above->parent) {
        if (above != dir && above->device == dir->device && above->inode == dir->inode) return true;
        if (above->graft) {
            const Graft *graft = &crawl->grafts[above->id];
            for (size_t i = 0; i < graft->ancestor_count; i++)
                if (graft->ancestors[2 * i] == dir->device && graft->ancestors[2 * i + 1] == dir->inode) return true;
            return false;
        }
    }
    return dir->parent && crawl->root->device == dir->device && crawl->root->inode == dir->inode;
}

/* Open the directory; false when there is nothing to list, with its state set. */
static bool open_dir(Worker *worker, Dir *dir) {
    Crawl *crawl = worker->crawl;
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK;
    if (dir->parent && crawl->links != FOLLOW_LINKS) flags |= O_NOFOLLOW;
    int found;
    if (crawl->interval) keep_rate(crawl);
    if (dir->holds_parent) {
        found = open_retrying(crawl, dir->parent->descriptor, dir->name, flags);
        int kept = errno;
        drop_parent(crawl, dir);
        errno = kept;
    } else found = open_by_path(crawl, dir, flags);
    end_operation(worker);
    if (found < 0 && atomic_load(&crawl->no_memory)) return false;
    if (found < 0) {
        int error = errno;
        /* Gone, or replaced by something else, since it was listed. */
        bool gone = error == ENOENT || error == ENOTDIR || (error == ELOOP && crawl->links != FOLLOW_LINKS);
        dir->state = gone && dir->parent ? GONE : REFUSED;
        if (dir->state == REFUSED) add_fault(crawl, dir, NULL, error);
        return false;
    }
    atomic_fetch_add(&crawl->descriptors, 1);
    dir->descriptor = found;
    atomic_store(&dir->holders, 1);
    if (crawl->links == FOLLOW_LINKS || crawl->one_file_system || crawl->stamps) {
        struct stat status;
        if (fstat(found, &status) == 0) {
            dir->device = status.st_dev, dir->inode = status.st_ino;
            if (crawl->stamps) put_stamp(crawl, dir, &status);
        }
        if (crawl->links == FOLLOW_LINKS && loops(crawl, dir)) {
            dir->state = REFUSED;
            add_fault(crawl, dir, NULL, ELOOP);
            release(crawl, dir);
            return false;
        }
        if (crawl->one_file_system && dir->device != crawl->device) {
            dir->stamped = false;
            release(crawl, dir);
            return false;
        }
    }
    return true;
}

/* ---- listing ---- */

static void free_job(Job *job) {
    for (Segment *next, *segment = job->first; segment; segment = next) {
        next = segment->next;
        free(segment);
    }
    free(job->old);
    free(job);
}

static void leave_job(Worker *worker, Job *job) {
    if (atomic_fetch_sub(&job->holders, 1) != 1) return;
    Crawl *crawl = worker->crawl;
    if (!atomic_load(&crawl->stopping) && pack_job(crawl, worker, job)) give_up(crawl);
    release(crawl, job->dir);
    free_job(job);
}

static int8_t type_of(unsigned char kind) {
    switch (kind) {
        case DT_DIR: return DIRECTORY;
        case DT_REG: return REGULAR;
        case DT_LNK: return SYMLINK;
        default: return OTHER;
    }
}

static bool is_snapshot(const char *name) {
    return name[0] == '.' && (!strcmp(name, ".snapshot") || !strcmp(name, ".snapshots") || !strcmp(name, ".zfs") ||
                              !strcmp(name, ".ckpt"));
}

/* Let a directory wait that has its place below `dir`; there is room for it on the stack. */
static void push_child(Worker *worker, Dir *dir, Dir *child) {
    Crawl *crawl = worker->crawl;
    child->parent = dir, child->depth = dir->depth + 1;
    if (dir->descriptor >= 0 && atomic_load_explicit(&crawl->descriptors, memory_order_relaxed) < crawl->descriptor_room) {
        atomic_fetch_add(&dir->holders, 1);
        child->holds_parent = true;
    }
    if (is_snapshot(child->name)) add_fault(crawl, dir, child->name, SNAPSHOT);
    push(worker, (Task){child, NULL, NULL, 0, 0});
}

/* -1 without memory: the walk has given up then, and no blob is made of this entry. */
static int add_child(Worker *worker, const Job *job, Entry *entry, const char *name) {
    Crawl *crawl = worker->crawl;
    Dir *child = has_room(worker) ? find_old(job, name, entry->length) : NULL;
    if (!child && has_room(worker)) child = make_dir(crawl, worker, job->dir, name, entry->length);
    if (!child) {
        entry->type = OTHER;
        give_up(crawl);
        return -1;
    }
    push_child(worker, job->dir, child);
    entry->type = DIRECTORY;
    entry->size = (intptr_t)child;
    return 0;
}

/* Copy one buffer of dirents into a segment, its subdirectories onto the stack. NULL without errno: nothing in it. */
static Segment *take_buffer(Worker *worker, Job *job, const uint8_t *buffer, size_t size, bool *ask) {
    Crawl *crawl = worker->crawl;
    size_t count = 0, names = 0;
    for (size_t at = 0; at < size;) {
        const struct dirent64 *found = (const void *)(buffer + at);
        count++;
        names += found->d_reclen - offsetof(struct dirent64, d_name);
        at += found->d_reclen;
    }
    size_t words = (size_t)crawl->extra_words;
    Segment *segment = malloc(sizeof *segment + count * (sizeof(Entry) + words * 8) + names + 8);
    if (!segment) { errno = ENOMEM; return NULL; }
    segment->next = NULL;
    segment->count = 0;
    segment->entries = (Entry *)(segment + 1);
    segment->extra = (int64_t *)(segment->entries + count);
    segment->names = (char *)(segment->extra + count * words);
    memset(segment->extra, 0, count * words * 8);
    size_t used = 0;
    *ask = false;
    for (size_t at = 0; at < size;) {
        const struct dirent64 *found = (const void *)(buffer + at);
        at += found->d_reclen;
        const char *name = found->d_name;
        if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]))) continue;
        size_t length = strlen(name);
        /* A broken file server: such a name would lead out of its directory. */
        if (!length || memchr(name, '/', length)) {
            job->dir->stamped = false;
            add_fault(crawl, job->dir, NULL, EILSEQ);
            continue;
        }
        int8_t type = type_of(found->d_type);
        if (type == SYMLINK && crawl->links == SKIP_LINKS) continue;
        if (crawl->glob_words && is_excluded(crawl, job->dir, name, length)) continue;
        Entry *entry = &segment->entries[segment->count];
        *entry = (Entry){0, (uint32_t)used, (uint16_t)length, type, 0};
        if (type == REGULAR || found->d_type == DT_UNKNOWN || (type == SYMLINK && crawl->links == FOLLOW_LINKS)) {
            entry->flags = NEEDS_STATUS;
            *ask = true;
        } else if (type == DIRECTORY && add_child(worker, job, entry, name)) {
            free(segment);
            errno = ENOMEM;
            return NULL;
        }
        memcpy(segment->names + used, name, length + 1);
        if (!job->odd && !is_utf8((const uint8_t *)name, length)) job->odd = true;
        used += length + 1;
        segment->count++;
    }
    if (!segment->count) { free(segment); errno = 0; return NULL; }
    atomic_fetch_add_explicit(&worker->entries, segment->count, memory_order_relaxed);
    return segment;
}

static void read_status(Worker *worker, Task *task, uint32_t index) {
    Crawl *crawl = worker->crawl;
    Segment *segment = task->segment;
    Entry *entry = &segment->entries[index];
    const char *name = segment->names + entry->name;
    struct stat status;
    int flags = AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW, error, tries = 0;
    if (crawl->links == FOLLOW_LINKS && entry->type == SYMLINK) flags = AT_NO_AUTOMOUNT;
    if (crawl->interval) keep_rate(crawl);
    for (;;) {
        error = fstatat(task->dir->descriptor, name, &status, flags) ? errno : 0;
        if (error == EINTR || (error == ESTALE && tries++ < 2)) continue;
        /* The kind was unknown and it is a link: once more, to what it leads to. */
        if (!error && S_ISLNK(status.st_mode) && crawl->links == FOLLOW_LINKS && (flags & AT_SYMLINK_NOFOLLOW)) {
            entry->type = SYMLINK;
            flags = AT_NO_AUTOMOUNT;
            continue;
        }
        break;
    }
    end_operation(worker);
    if (error) {
        bool gone = error == ENOENT || error == ENOTDIR;
        if (gone && entry->type == SYMLINK) {
            /* A dangling link is an entry; it may itself have vanished. */
            gone = fstatat(task->dir->descriptor, name, &status, AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW) != 0;
            error = gone ? 0 : ENOENT; /* whoever follows links wants what they lead to */
        }
        entry->type = OTHER;
        if (gone) entry->flags |= DROPPED;
        else if (error) add_fault(crawl, task->dir, name, error);
        return;
    }
    if (S_ISREG(status.st_mode)) {
        entry->type = REGULAR;
        entry->size = status.st_size;
        uint64_t bytes = atomic_load_explicit(&worker->bytes, memory_order_relaxed) + (uint64_t)status.st_size;
        atomic_store_explicit(&worker->bytes, bytes, memory_order_relaxed);
        if (crawl->extra_words) {
            int64_t *extra = segment->extra + (size_t)index * (size_t)crawl->extra_words;
            if (crawl->mtime) *extra++ = saturated_ns(status.st_mtim);
            if (crawl->blocks) *extra++ = status.st_blocks;
            if (crawl->hard_links && status.st_nlink > 1) {
                extra[0] = (int64_t)status.st_dev, extra[1] = (int64_t)status.st_ino;
                entry->flags |= HAS_LINKS;
            }
        }
    } else if (S_ISDIR(status.st_mode)) {
        add_child(worker, task->job, entry, name);
    } else if (S_ISLNK(status.st_mode)) {
        entry->type = SYMLINK;
        if (crawl->links == SKIP_LINKS) entry->flags |= DROPPED;
    } else entry->type = OTHER;
}

static void run_range(Worker *worker, Task task) {
    Crawl *crawl = worker->crawl;
    if (atomic_load_explicit(&worker->current, memory_order_relaxed) != task.dir) {
        atomic_store_explicit(&worker->current, task.dir, memory_order_release);
        atomic_store_explicit(&worker->current_since, clock_ns(), memory_order_relaxed);
    }
    for (; task.from < task.to; task.from++) {
        if (!(task.segment->entries[task.from].flags & NEEDS_STATUS)) continue;
        if (atomic_load_explicit(&crawl->stopping, memory_order_relaxed)) break;
        if (wanted(crawl) > 0) give_work(worker, &task);
        read_status(worker, &task, task.from);
    }
    leave_job(worker, task.job);
}

static void log_dir(Crawl *crawl, Dir *dir) {
    pthread_mutex_lock(&crawl->lock);
    if (crawl->logged_count == crawl->logged_room && crawl->logged_room < 10000) {
        size_t room = crawl->logged_room ? 2 * crawl->logged_room : 64;
        Dir **logged = realloc(crawl->logged, room * sizeof *logged);
        if (logged) crawl->logged = logged, crawl->logged_room = room;
    }
    if (crawl->logged_count < crawl->logged_room) crawl->logged[crawl->logged_count++] = dir;
    pthread_mutex_unlock(&crawl->lock);
}

/* A directory that is as the earlier crawl found it: its names hold and nothing in it is asked for. False: list it. */
static bool take_known(Worker *worker, Dir *dir) {
    Crawl *crawl = worker->crawl;
    if (!dir->stamped || holds_excluded(crawl, dir)) return false;
    if (crawl->interval) keep_rate(crawl);
    struct stat status;
    int descriptor = -1;
    bool same;
    if (dir->holds_parent && !dir->counts[DIRECTORY + 1]) {
        const int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
        same = !fstatat(dir->parent->descriptor, dir->name, &status, flags) && is_same(crawl, dir, &status);
    } else {
        int flags = O_PATH | O_DIRECTORY | O_CLOEXEC | (dir->parent ? O_NOFOLLOW : 0);
        descriptor = dir->holds_parent ? open_retrying(crawl, dir->parent->descriptor, dir->name, flags)
                                       : open_by_path(crawl, dir, flags);
        same = descriptor >= 0 && !fstat(descriptor, &status) && is_same(crawl, dir, &status);
        if (!same && descriptor >= 0) close(descriptor);
    }
    end_operation(worker);
    if (!same) return false;
    drop_parent(crawl, dir);
    if (descriptor >= 0) {
        atomic_fetch_add(&crawl->descriptors, 1);
        dir->descriptor = descriptor;
        atomic_store(&dir->holders, 1);
    }
    if ((int64_t)dir->depth <= crawl->log_depth) log_dir(crawl, dir);
    dir->unchanged = true;
    const uint8_t *at = dir->blob;
    Item item;
    for (uint32_t left = dir->counts[DIRECTORY + 1]; left; left--) {
        at = read_item(crawl, at, &item);
        if (!has_room(worker)) { give_up(crawl); break; }
        push_child(worker, dir, item.dir);
    }
    uint64_t entries = (uint64_t)dir->counts[1] + dir->counts[2] + dir->counts[3];
    atomic_fetch_add_explicit(&worker->entries, entries, memory_order_relaxed);
    uint64_t bytes = atomic_load_explicit(&worker->bytes, memory_order_relaxed) + (uint64_t)dir->own;
    atomic_store_explicit(&worker->bytes, bytes, memory_order_relaxed);
    if (descriptor >= 0) release(crawl, dir);
    if (wanted(crawl) > 0) give_work(worker, NULL);
    return true;
}

static void run_dir(Worker *worker, Dir *dir) {
    Crawl *crawl = worker->crawl;
    atomic_fetch_sub_explicit(&crawl->waiting, 1, memory_order_relaxed);
    if (atomic_load(&crawl->stopping)) {
        drop_parent(crawl, dir);
        return;
    }
    int64_t start = clock_ns();
    atomic_store_explicit(&worker->current, dir, memory_order_release); /* its name is read by who shows progress */
    atomic_store_explicit(&worker->current_since, start, memory_order_relaxed);
    if (dir->known && take_known(worker, dir)) return;
    uint32_t old_count = 0;
    Dir **old = dir->known ? forget_known(crawl, dir, &old_count) : NULL;
    if (!open_dir(worker, dir)) {
        free(old);
        return;
    }
    if ((int64_t)dir->depth <= crawl->log_depth) log_dir(crawl, dir);
    Job *job = calloc(1, sizeof *job);
    if (!job) {
        free(old);
        give_up(crawl);
        release(crawl, dir);
        return;
    }
    job->dir = dir;
    job->old = old, job->old_count = old_count;
    job->holders = 1;
    while (!atomic_load_explicit(&crawl->stopping, memory_order_relaxed)) {
        if (crawl->interval) keep_rate(crawl);
        ssize_t size = getdents64(dir->descriptor, worker->scratch, BUFFER);
        end_operation(worker);
        if (size == 0) break;
        if (size < 0) {
            if (errno == EINTR) continue;
            dir->stamped = false;
            if (errno == ENOENT) dir->vanished = true;
            else add_fault(crawl, dir, NULL, errno);
            break;
        }
        bool ask;
        Segment *segment = take_buffer(worker, job, worker->scratch, (size_t)size, &ask);
        if (!segment) {
            if (errno == ENOMEM) give_up(crawl);
            continue;
        }
        if (job->last) job->last->next = segment;
        else job->first = segment;
        job->last = segment;
        if (ask) {
            atomic_fetch_add(&job->holders, 1);
            if (push(worker, (Task){dir, job, segment, 0, segment->count})) {
                give_up(crawl);
                atomic_fetch_sub(&job->holders, 1);
            }
        }
        if (wanted(crawl) > 0) give_work(worker, NULL);
    }
    leave_job(worker, job);
    int64_t taken = clock_ns() - start;
    if (taken > worker->slowest_time) worker->slowest_time = taken, worker->slowest = dir;
}

/* ---- threads ---- */

static bool next_task(Worker *worker, Task *task) {
    Crawl *crawl = worker->crawl;
    if (worker->count) {
        *task = worker->stack[--worker->count];
        return true;
    }
    pthread_mutex_lock(&crawl->lock);
    atomic_store_explicit(&worker->current, NULL, memory_order_relaxed);
    bool waited = false;
    for (;;) {
        int active = crawl->workers - atomic_load(&crawl->parked) - (waited ? 0 : 1);
        if (crawl->ending) break;
        if (crawl->queue_count && (active < atomic_load(&crawl->allowed) || !waited)) break;
        if (!waited) {
            atomic_fetch_add(&crawl->parked, 1);
            waited = true;
            pthread_cond_signal(&crawl->changed);
        }
        pthread_cond_wait(&crawl->work, &crawl->lock);
    }
    if (waited) atomic_fetch_sub(&crawl->parked, 1);
    bool found = crawl->queue_count > 0 && !crawl->ending;
    if (found) {
        /* The newest for this thread, with company when there is plenty; the oldest are for other ranks. */
        size_t take = crawl->queue_count / (2 * (size_t)crawl->workers) + 1;
        if (take > 16) take = 16;
        while (take-- > 0) {
            if (take && !has_room(worker)) continue; /* it stays in the queue */
            Task next = crawl->queue[crawl->queue_head + --crawl->queue_count];
            if (take == 0) *task = next;
            else {
                push(worker, next);
                atomic_fetch_sub(&crawl->outstanding, 1);
                if (!next.segment) atomic_fetch_sub_explicit(&crawl->waiting, 1, memory_order_relaxed);
            }
        }
        if (!crawl->queue_count) crawl->queue_head = 0;
        atomic_store(&crawl->queued, (int64_t)crawl->queue_count);
    }
    pthread_mutex_unlock(&crawl->lock);
    if (waited) {
        struct rusage usage;
        getrusage(RUSAGE_THREAD, &usage);
        worker->switches = usage.ru_nvcsw;
        begin_sample(worker);
    }
    return found;
}

static void *run_worker(void *argument) {
    Worker *worker = argument;
    Crawl *crawl = worker->crawl;
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    worker->switches = usage.ru_nvcsw;
    begin_sample(worker);
    Task task;
    while (next_task(worker, &task)) {
        if (task.segment) run_range(worker, task);
        else run_dir(worker, task.dir);
        if (atomic_fetch_sub(&crawl->outstanding, 1) == 1) {
            pthread_mutex_lock(&crawl->lock);
            pthread_cond_broadcast(&crawl->changed);
            pthread_mutex_unlock(&crawl->lock);
        }
        if (worker->count && wanted(crawl) > 0) give_work(worker, NULL);
    }
    return NULL;
}

int start_workers(Crawl *crawl) {
    cpu_set_t cores;
    int allowed = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 2;
    atomic_store(&crawl->allowed, allowed < crawl->workers ? allowed : crawl->workers);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        rlim_t old = files.rlim_cur;
        files.rlim_cur = files.rlim_max < 65536 ? files.rlim_max : 65536;
        if (files.rlim_cur < old || setrlimit(RLIMIT_NOFILE, &files)) files.rlim_cur = old;
        crawl->descriptor_room = (int)(files.rlim_cur / 2) - 2 * crawl->workers - 64;
    }
    int wanted_workers = crawl->workers;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
    pthread_mutex_lock(&crawl->lock);
    int made = 0;
    for (; made < wanted_workers; made++) {
        Worker *worker = &crawl->worker[made];
        worker->crawl = crawl;
        worker->scratch = malloc(BUFFER);
        if (!worker->scratch || pthread_create(&worker->thread, &attributes, run_worker, worker)) {
            free(worker->scratch);
            worker->scratch = NULL;
            break;
        }
    }
    crawl->workers = made; /* a limit on threads means fewer, not none */
    crawl->started = made > 0;
    pthread_mutex_unlock(&crawl->lock);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    return made ? 0 : -1;
}

void end_workers(Crawl *crawl) {
    if (!crawl->started) return;
    pthread_mutex_lock(&crawl->lock);
    if (atomic_load(&crawl->outstanding)) atomic_store(&crawl->stopping, true);
    crawl->ending = true;
    pthread_cond_broadcast(&crawl->work);
    pthread_mutex_unlock(&crawl->lock);
    for (int i = 0; i < crawl->workers; i++) {
        pthread_join(crawl->worker[i].thread, NULL);
        free(crawl->worker[i].scratch), free(crawl->worker[i].stack);
        crawl->worker[i].scratch = NULL, crawl->worker[i].stack = NULL;
    }
    crawl->started = false;
    /* A thread that ends leaves its own stack empty, but not the queue: what is there holds segments and descriptors. */
    for (size_t i = 0; i < crawl->queue_count; i++) {
        Task *task = &crawl->queue[crawl->queue_head + i];
        if (task->segment) leave_job(&crawl->worker[0], task->job);
        else drop_parent(crawl, task->dir);
    }
    crawl->queue_count = 0;
}
