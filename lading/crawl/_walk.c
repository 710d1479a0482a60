/* The crawl core as a Python type: Walker. Stable ABI, no lock held while it works.
 *
 * Input: a root and settings. Output: faults, counts, and the tree as blocks of text.
 * Invariant: every method may be called from one thread only; threads of the
 * core never touch Python. A walk that was stopped, or that lacked memory, has
 * no result: settle and shard refuse it. A Walker exists only with its Crawl,
 * and whatever way it ends, its memory and descriptors go with it.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "known.h"
#include "listing.h"
#include "pack.h"
#include "paths.h"
#include "render.h"
#include "scan.h"
#include "shard.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || __SIZEOF_POINTER__ != 8
#error "the crawl core is for 64-bit little-endian machines; the Python walk serves elsewhere"
#endif

typedef struct {
    PyObject_HEAD
    Crawl *crawl;
    Renderer renderer;
    Lister lister;
    Stamper stamper;
    int listed; /* which entries it goes through */
    Listing *listing;
} Walker;

static PyObject *walker_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"root", "name", "workers", "links", "mtime", "blocks", "hard_links", "one_file_system",
                            "globs", "rate", "log_depth", "seed", "stamps", NULL};
    const char *root, *name;
    Py_ssize_t root_size, name_size;
    Py_buffer globs;
    int workers, links, mtime, blocks, hard_links, one_file_system, log_depth, seed, stamps = 0;
    double rate;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "y#y#iippipy*dip|p", names, &root, &root_size, &name, &name_size,
                                     &workers, &links, &mtime, &blocks, &hard_links, &one_file_system, &globs, &rate,
                                     &log_depth, &seed, &stamps))
        return NULL;
    if (workers < 1) {
        PyBuffer_Release(&globs);
        PyErr_SetString(PyExc_ValueError, "a walk needs a thread");
        return NULL;
    }
    PyObject *self = ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self) {
        PyBuffer_Release(&globs);
        return NULL;
    }
    Walker *walker = (Walker *)self;
    Crawl *crawl = walker->crawl = calloc(1, sizeof *crawl);
    if (!crawl) {
        PyBuffer_Release(&globs);
        goto no_memory;
    }
    crawl->root_descriptor = -1;
    pthread_mutex_init(&crawl->lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&crawl->work, &clock);
    pthread_cond_init(&crawl->changed, &clock);
    pthread_condattr_destroy(&clock);
    crawl->workers = workers, crawl->links = links, crawl->log_depth = log_depth;
    crawl->mtime = mtime, crawl->blocks = blocks, crawl->hard_links = hard_links > 0, crawl->count_once = hard_links > 1;
    crawl->one_file_system = one_file_system, crawl->stamps = stamps;
    crawl->extra_words = mtime + blocks + 2 * (hard_links > 0);
    crawl->interval = rate > 0 ? (int64_t)(1e9 / rate) : 0;
    crawl->globs = malloc((size_t)globs.len + 1);
    if (crawl->globs) {
        memcpy(crawl->globs, globs.buf, (size_t)globs.len);
        crawl->glob_words = (size_t)globs.len / sizeof(int32_t);
    }
    PyBuffer_Release(&globs);
    if (!crawl->globs) goto no_memory;
    struct stat status;
    int lacking;
    Py_BEGIN_ALLOW_THREADS /* a dead file server answers neither; other threads must see the signals meanwhile */
    crawl->root_descriptor = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    lacking = crawl->root_descriptor < 0 || fstat(crawl->root_descriptor, &status);
    Py_END_ALLOW_THREADS
    if (lacking) {
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, root);
        goto failed;
    }
    crawl->device = status.st_dev;
    crawl->worker = calloc((size_t)workers, sizeof *crawl->worker);
    crawl->root = crawl->worker ? make_dir(crawl, NULL, NULL, name, (size_t)name_size) : NULL;
    if (!crawl->root) goto no_memory;
    crawl->root->device = status.st_dev, crawl->root->inode = status.st_ino;
    if (seed) {
        if (push_queue(crawl, (Task){crawl->root, NULL, NULL, 0, 0})) goto no_memory;
        atomic_store(&crawl->outstanding, 1);
        atomic_store(&crawl->waiting, 1);
    }
    return self;
no_memory:
    PyErr_NoMemory();
failed:
    Py_DECREF(self);
    return NULL;
}

static void walker_dealloc(PyObject *self) {
    Walker *walker = (Walker *)self;
    Crawl *crawl = walker->crawl;
    PyTypeObject *type = Py_TYPE(self);
    free_listing(walker->listing); /* before the arenas */
    if (crawl) {
        Py_BEGIN_ALLOW_THREADS
        end_workers(crawl);
        Py_END_ALLOW_THREADS
        for (size_t i = 0; i < crawl->fault_count; i++) free(crawl->faults[i].path);
        for (size_t i = 0; i < crawl->graft_count; i++) free(crawl->grafts[i].ancestors);
        for (size_t i = 0; i < crawl->arena_count; i++) free(crawl->arenas[i]);
        free(crawl->arenas), free(crawl->faults), free(crawl->grafts), free(crawl->lent), free(crawl->logged);
        free(crawl->queue), free(crawl->worker), free(crawl->globs), free(crawl->away), free(crawl->returned);
        free(crawl->known);
        if (crawl->root_descriptor >= 0) close(crawl->root_descriptor);
        pthread_mutex_destroy(&crawl->lock);
        pthread_cond_destroy(&crawl->work), pthread_cond_destroy(&crawl->changed);
        free(crawl);
    }
    free(walker->renderer.levels);
    end_lister(&walker->lister);
    free(walker->stamper.levels);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* Whether the walk went to its end; sets the exception otherwise. */
static bool is_whole(const Crawl *crawl) {
    if (atomic_load(&crawl->no_memory)) PyErr_NoMemory();
    else if (atomic_load(&crawl->stopping)) PyErr_SetString(PyExc_ValueError, "the walk was stopped: it has no result");
    else return true;
    return false;
}

static PyObject *walker_start(PyObject *self, PyObject *Py_UNUSED(none)) {
    int failed;
    Crawl *crawl = ((Walker *)self)->crawl;
    if (crawl->started || crawl->ending) {
        PyErr_SetString(PyExc_ValueError, "a walk starts once");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    failed = start_workers(crawl);
    Py_END_ALLOW_THREADS
    if (failed) {
        PyErr_SetString(PyExc_OSError, "no thread could be started");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* True when nothing is left to do here; returns early when a thread runs out of work if `hungry`. */
static PyObject *walker_wait(PyObject *self, PyObject *arguments) {
    double seconds;
    if (!PyArg_ParseTuple(arguments, "d", &seconds)) return NULL;
    Crawl *crawl = ((Walker *)self)->crawl;
    bool done;
    Py_BEGIN_ALLOW_THREADS
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    int64_t ns = end.tv_nsec + (int64_t)(seconds * 1e9);
    end.tv_sec += ns / 1000000000, end.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&crawl->lock);
    while (atomic_load(&crawl->outstanding) && pthread_cond_timedwait(&crawl->changed, &crawl->lock, &end) != ETIMEDOUT) {}
    done = atomic_load(&crawl->outstanding) == 0;
    pthread_mutex_unlock(&crawl->lock);
    Py_END_ALLOW_THREADS
    if (atomic_load(&crawl->no_memory)) return PyErr_NoMemory();
    return PyBool_FromLong(done);
}

static PyObject *walker_stop(PyObject *self, PyObject *Py_UNUSED(none)) {
    atomic_store(&((Walker *)self)->crawl->stopping, true);
    Py_RETURN_NONE;
}

static PyObject *walker_end(PyObject *self, PyObject *Py_UNUSED(none)) {
    Crawl *crawl = ((Walker *)self)->crawl;
    Py_BEGIN_ALLOW_THREADS
    end_workers(crawl);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *walker_state(PyObject *self, PyObject *Py_UNUSED(none)) {
    Crawl *crawl = ((Walker *)self)->crawl;
    uint64_t entries = 0, bytes = 0;
    for (int i = 0; i < crawl->workers; i++) {
        entries += atomic_load_explicit(&crawl->worker[i].entries, memory_order_relaxed);
        bytes += atomic_load_explicit(&crawl->worker[i].bytes, memory_order_relaxed);
    }
    return Py_BuildValue("KKLi", (unsigned long long)entries, (unsigned long long)bytes,
                         (long long)atomic_load(&crawl->waiting), atomic_load(&crawl->parked));
}

/* (path, seconds) of the directory that is being read for the longest time, or once ended of the slowest; or None. */
static PyObject *walker_slowest(PyObject *self, PyObject *Py_UNUSED(none)) {
    Crawl *crawl = ((Walker *)self)->crawl;
    Dir *slowest = NULL;
    int64_t longest = 0, now = clock_ns();
    for (int i = 0; i < crawl->workers; i++) {
        Worker *worker = &crawl->worker[i];
        Dir *dir = crawl->started ? atomic_load_explicit(&worker->current, memory_order_acquire) : worker->slowest;
        int64_t time = crawl->started ? now - atomic_load_explicit(&worker->current_since, memory_order_relaxed)
                                      : worker->slowest_time;
        if (dir && time > longest) slowest = dir, longest = time;
    }
    if (!slowest) Py_RETURN_NONE;
    char *path = path_of(slowest, NULL, NULL);
    if (!path) return PyErr_NoMemory();
    PyObject *found = Py_BuildValue("yd", path, (double)longest * 1e-9);
    free(path);
    return found;
}

static PyObject *walker_logged(PyObject *self, PyObject *Py_UNUSED(none)) {
    Crawl *crawl = ((Walker *)self)->crawl;
    PyObject *list = PyList_New(0);
    pthread_mutex_lock(&crawl->lock);
    for (size_t i = 0; list && i < crawl->logged_count; i++) {
        char *path = path_of(crawl->logged[i], NULL, NULL);
        PyObject *item = path ? PyBytes_FromString(path) : PyErr_NoMemory();
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
        free(path);
    }
    crawl->logged_count = 0;
    pthread_mutex_unlock(&crawl->lock);
    return list;
}

static PyObject *walker_faults(PyObject *self, PyObject *Py_UNUSED(none)) {
    Crawl *crawl = ((Walker *)self)->crawl;
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < crawl->fault_count; i++) {
        PyObject *item = Py_BuildValue("yi", crawl->faults[i].path, crawl->faults[i].error);
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* The (device, inode) pairs from a directory up to the root, for the loop guard of whoever borrows it. */
static PyObject *ancestors_of(const Crawl *crawl, const Dir *dir) {
    size_t count = 0;
    const Graft *graft = NULL;
    for (const Dir *above = dir->parent; above; above = above->parent) {
        count++;
        if (above->graft) { graft = &crawl->grafts[above->id]; count += graft->ancestor_count; break; }
    }
    uint64_t *pairs = malloc(16 * (count + 1));
    if (!pairs) return PyErr_NoMemory();
    size_t n = 0;
    for (const Dir *above = dir->parent; above; above = above->parent) {
        pairs[n++] = above->device, pairs[n++] = above->inode;
        if (above->graft) {
            memcpy(pairs + n, graft->ancestors, 16 * graft->ancestor_count);
            n += 2 * graft->ancestor_count;
            break;
        }
    }
    PyObject *found = PyBytes_FromStringAndSize((char *)pairs, (Py_ssize_t)(8 * n));
    free(pairs);
    return found;
}

/* take(most): lend waiting directories, the oldest first: [(number, path, depth, ancestors)]; 0 says no one asks. */
static PyObject *walker_take(PyObject *self, PyObject *arguments) {
    int most;
    if (!PyArg_ParseTuple(arguments, "i", &most)) return NULL;
    Crawl *crawl = ((Walker *)self)->crawl;
    PyObject *list = PyList_New(0);
    if (!list) return NULL;
    atomic_store(&crawl->guests, most);
    Dir **taken = most > 0 ? malloc((size_t)most * sizeof *taken) : NULL;
    size_t count = 0, first = crawl->lent_count;
    if (most > 0 && !taken) goto no_memory;
    pthread_mutex_lock(&crawl->lock);
    size_t limit = crawl->queue_count / 2 + (crawl->queue_count > 1);
    if (limit > (size_t)most) limit = (size_t)most;
    if (crawl->lent_count + limit > crawl->lent_room) {
        size_t room = 2 * (crawl->lent_count + limit) + 256;
        Dir **lent = realloc(crawl->lent, room * sizeof *lent);
        if (!lent) {
            pthread_mutex_unlock(&crawl->lock);
            free(taken);
            goto no_memory;
        }
        crawl->lent = lent, crawl->lent_room = room;
    }
    for (size_t i = 0; i < crawl->queue_count; i++) {
        Task task = crawl->queue[crawl->queue_head + i];
        if (!task.segment && count < limit) taken[count++] = task.dir;
        else crawl->queue[crawl->queue_head + i - count] = task;
    }
    crawl->queue_count -= count;
    atomic_store(&crawl->queued, (int64_t)crawl->queue_count);
    for (size_t i = 0; i < count; i++) {
        taken[i]->state = AWAY;
        taken[i]->id = (uint32_t)crawl->lent_count;
        crawl->lent[crawl->lent_count++] = taken[i];
    }
    pthread_mutex_unlock(&crawl->lock);
    for (size_t i = 0; i < count; i++) {
        Dir *dir = taken[i];
        char *path = path_of(dir, NULL, NULL);
        /* Who borrows it has the same earlier crawl. */
        uint64_t known = dir->known;
        PyObject *ancestors = crawl->links == FOLLOW_LINKS ? ancestors_of(crawl, dir)
                                                           : PyBytes_FromStringAndSize((char *)&known, known ? sizeof known : 0);
        PyObject *item = path && ancestors ? Py_BuildValue("nyIO", (Py_ssize_t)(first + i), path, dir->depth, ancestors)
                                           : PyErr_NoMemory();
        if (list && (!item || PyList_Append(list, item))) Py_CLEAR(list); /* it did not come back, says settle */
        Py_XDECREF(item), Py_XDECREF(ancestors);
        free(path);
        drop_parent(crawl, dir);
    }
    free(taken);
    atomic_fetch_sub(&crawl->waiting, (int64_t)count);
    atomic_fetch_sub(&crawl->outstanding, (int64_t)count);
    return list;
no_memory:
    Py_DECREF(list);
    return PyErr_NoMemory();
}

/* give(rank, number, path, depth, ancestors): borrow a directory. */
static PyObject *walker_give(PyObject *self, PyObject *arguments) {
    unsigned int rank, id, depth;
    const char *path, *ancestors;
    Py_ssize_t path_size, ancestors_size;
    if (!PyArg_ParseTuple(arguments, "IIy#Iy#", &rank, &id, &path, &path_size, &depth, &ancestors, &ancestors_size)) return NULL;
    Crawl *crawl = ((Walker *)self)->crawl;
    Dir *dir = make_dir(crawl, NULL, crawl->root, path, (size_t)path_size);
    uint64_t *pairs = malloc((size_t)ancestors_size + 1);
    if (!dir || !pairs) { free(pairs); return PyErr_NoMemory(); }
    memcpy(pairs, ancestors, (size_t)ancestors_size);
    if (ancestors_size == sizeof(uint64_t)) copy_known(crawl, dir, pairs[0]);
    dir->graft = true;
    dir->depth = depth;
    pthread_mutex_lock(&crawl->lock);
    dir->id = (uint32_t)crawl->graft_count;
    bool room_left = crawl->graft_count < crawl->graft_room;
    if (!room_left) {
        size_t room = crawl->graft_room ? 2 * crawl->graft_room : 256;
        Graft *grafts = realloc(crawl->grafts, room * sizeof *grafts);
        if (grafts) crawl->grafts = grafts, crawl->graft_room = room, room_left = true;
    }
    if (!room_left || push_queue(crawl, (Task){dir, NULL, NULL, 0, 0})) {
        give_up(crawl);
        pthread_mutex_unlock(&crawl->lock);
        free(pairs);
        return PyErr_NoMemory();
    }
    crawl->grafts[crawl->graft_count++] = (Graft){dir, rank, id, pairs, (size_t)ancestors_size / 16};
    atomic_fetch_add(&crawl->outstanding, 1);
    atomic_fetch_add(&crawl->waiting, 1);
    pthread_cond_signal(&crawl->work);
    pthread_mutex_unlock(&crawl->lock);
    Py_RETURN_NONE;
}

/* shard(n): what was found in the n-th borrowed directory, or None beyond the last. */
static PyObject *walker_shard(PyObject *self, PyObject *arguments) {
    Py_ssize_t index;
    if (!PyArg_ParseTuple(arguments, "n", &index)) return NULL;
    Crawl *crawl = ((Walker *)self)->crawl;
    if (!is_whole(crawl)) return NULL;
    if ((size_t)index >= crawl->graft_count) Py_RETURN_NONE;
    size_t size;
    uint8_t *data = make_shard(crawl, &crawl->grafts[index], &size);
    if (!data) return PyErr_NoMemory();
    PyObject *found = PyBytes_FromStringAndSize((char *)data, (Py_ssize_t)size);
    free(data);
    return found;
}

static PyObject *walker_add_shard(PyObject *self, PyObject *arguments) {
    unsigned int rank;
    Py_buffer data;
    if (!PyArg_ParseTuple(arguments, "Iy*", &rank, &data)) return NULL;
    int failed = add_shard(((Walker *)self)->crawl, rank, data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    /* Half of it is taken in: nothing of this walk may be summed up any more. */
    if (failed) atomic_store(&((Walker *)self)->crawl->stopping, true);
    if (failed == -2) return PyErr_NoMemory();
    if (failed) {
        PyErr_SetString(PyExc_ValueError, "a shard is damaged");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* list_begin(kind, end, escapes, comments, root, program): a list comes in place of a walk; root None: paths below it. */
static PyObject *walker_list_begin(PyObject *self, PyObject *arguments) {
    int kind, end, escapes, comments;
    const char *prefix, *program;
    Py_ssize_t prefix_size = -1, program_size;
    if (!PyArg_ParseTuple(arguments, "iiipz#y#", &kind, &end, &escapes, &comments, &prefix, &prefix_size, &program, &program_size))
        return NULL;
    Walker *walker = (Walker *)self;
    Crawl *crawl = walker->crawl;
    if (walker->listing || crawl->started || crawl->queue_count || crawl->root->blob || crawl->blocks || crawl->hard_links) {
        PyErr_SetString(PyExc_ValueError, "a list is taken once, by a walker that walks nothing and counts each name");
        return NULL;
    }
    walker->listing = begin_listing(crawl, kind, end, escapes, comments, (const uint8_t *)prefix, prefix ? prefix_size : -1,
                                    (const uint8_t *)program, (size_t)program_size);
    if (!walker->listing) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* The list that is being taken; sets the exception where there is none. */
static Listing *open_listing(PyObject *self) {
    Listing *listing = ((Walker *)self)->listing;
    if (listing && !listing->packed && !listing->failed) return listing;
    PyErr_SetString(PyExc_ValueError, "no list is being taken");
    return NULL;
}

/* list_feed(data, last): how many bytes were whole records. */
static PyObject *walker_list_feed(PyObject *self, PyObject *arguments) {
    Py_buffer data;
    int last;
    Listing *listing = open_listing(self);
    if (!listing || !PyArg_ParseTuple(arguments, "y*p", &data, &last)) return NULL;
    ptrdiff_t taken;
    Py_BEGIN_ALLOW_THREADS
    taken = feed_listing(listing, data.buf, (size_t)data.len, last);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    if (taken >= 0) return PyLong_FromSsize_t(taken);
    give_up(((Walker *)self)->crawl); /* a part of a list is no tree */
    return PyErr_NoMemory();
}

/* list_end(): (number of what is wrong, [(line, code, text)] of the first, lines, whether it said that it is complete). */
static PyObject *walker_list_end(PyObject *self, PyObject *Py_UNUSED(none)) {
    Listing *listing = open_listing(self);
    if (!listing) return NULL;
    Crawl *crawl = ((Walker *)self)->crawl;
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = end_listing(listing);
    Py_END_ALLOW_THREADS
    if (failed) return give_up(crawl), PyErr_NoMemory();
    PyObject *list = PyList_New(0);
    for (uint64_t i = 0; list && i < listing->fault_count && i < MOST_LIST_FAULTS; i++) {
        const ListFault *fault = &listing->faults[i];
        PyObject *item = Py_BuildValue("Kiy#", (unsigned long long)fault->line, fault->code, (const char *)fault->text,
                                       (Py_ssize_t)fault->length);
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    if (!list) return NULL;
    if (listing->fault_count) atomic_store(&crawl->stopping, true); /* no tree of it */
    PyObject *found = Py_BuildValue("KNKO", (unsigned long long)listing->fault_count, list, (unsigned long long)listing->line,
                                    listing->complete ? Py_True : Py_False);
    free_listing(listing);
    ((Walker *)self)->listing = NULL;
    return found;
}

/* settle(): (entries, files, directories, links, others, bytes). */
static PyObject *walker_settle(PyObject *self, PyObject *Py_UNUSED(none)) {
    Crawl *crawl = ((Walker *)self)->crawl;
    int failed, lost;
    uint64_t counts[4] = {0};
    if (!is_whole(crawl)) return NULL;
    if (((Walker *)self)->listing) {
        PyErr_SetString(PyExc_ValueError, "the list has not come to its end");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    lost = join_shards(crawl);
    failed = lost ? 0 : settle(crawl, counts);
    Py_END_ALLOW_THREADS
    if (failed == TOO_LARGE) {
        atomic_store(&crawl->stopping, true); /* half of it is summed up: it must not be rendered */
        PyErr_SetString(PyExc_OverflowError, "the sizes add up to more than 64 bits hold");
        return NULL;
    }
    if (failed || lost == -2) {
        give_up(crawl); /* half of it is summed up: it must not be rendered */
        return PyErr_NoMemory();
    }
    if (lost) {
        PyErr_SetString(PyExc_ValueError, "a directory that was handed to another rank did not come back");
        return NULL;
    }
    return Py_BuildValue("KKKKKL", (unsigned long long)crawl->root->entries, (unsigned long long)counts[2],
                         (unsigned long long)counts[1] + 1, (unsigned long long)counts[3],
                         (unsigned long long)counts[0], (long long)crawl->root->total);
}

/* know(types, sizes, ends, names, offsets, mtimes, stamps): an earlier crawl's tree, before the walk starts. */
static PyObject *walker_know(PyObject *self, PyObject *arguments) {
    Crawl *crawl = ((Walker *)self)->crawl;
    Py_buffer given[7] = {{0}};
    Py_buffer *mtimes = &given[5];
    PyObject *times;
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*y*Oy*", &given[0], &given[1], &given[2], &given[3], &given[4], &times, &given[6]))
        return NULL;
    int failed = BAD_TREE;
    bool can = !crawl->started && !crawl->known && !crawl->blocks && !crawl->hard_links && crawl->links != FOLLOW_LINKS &&
               (times != Py_None) == crawl->mtime;
    if (can && (times == Py_None || !PyObject_GetBuffer(times, mtimes, PyBUF_SIMPLE))) {
        KnownTree tree = {(size_t)given[0].len, given[0].buf, given[1].buf, given[2].buf, given[4].buf, mtimes->buf, given[6].buf,
                          given[3].buf, (size_t)given[3].len, (size_t)given[6].len / STAMP};
        size_t most = (size_t)given[1].len / 8;
        bool fits = tree.count == most && (size_t)given[2].len / 8 == most && (size_t)given[4].len / 8 == most + 1 &&
                    (times == Py_None || (size_t)mtimes->len / 8 == most) && (size_t)given[6].len % STAMP == 0;
        Py_BEGIN_ALLOW_THREADS
        if (fits) failed = load_known(crawl, &tree);
        Py_END_ALLOW_THREADS
    }
    for (int i = 0; i < 7; i++) PyBuffer_Release(&given[i]);
    if (failed == BAD_TREE && !PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "the earlier tree does not fit this walk");
    if (failed) {
        atomic_store(&crawl->stopping, true); /* half of it is taken in */
        return failed == BAD_TREE ? NULL : (give_up(crawl), PyErr_NoMemory());
    }
    Py_RETURN_NONE;
}

/* stamps(limit, room): inode, mtime and ctime of the next directories, zeros for those that changed at `limit` or later. */
static PyObject *walker_stamps(PyObject *self, PyObject *arguments) {
    long long limit;
    Py_ssize_t room;
    if (!PyArg_ParseTuple(arguments, "Ln", &limit, &room)) return NULL;
    Walker *walker = (Walker *)self;
    if (!is_whole(walker->crawl)) return NULL;
    char *out = room < STAMP ? NULL : malloc((size_t)room);
    if (!out) return PyErr_NoMemory();
    walker->stamper.crawl = walker->crawl;
    ptrdiff_t size;
    Py_BEGIN_ALLOW_THREADS
    size = put_stamps(&walker->stamper, limit, out, (size_t)room);
    Py_END_ALLOW_THREADS
    PyObject *found = size < 0 ? PyErr_NoMemory() : PyBytes_FromStringAndSize(out, size);
    free(out);
    return found;
}

/* unchanged(): how many directories of the settled tree are as the earlier crawl had them. */
static PyObject *walker_unchanged(PyObject *self, PyObject *Py_UNUSED(none)) {
    return PyLong_FromUnsignedLongLong(((Walker *)self)->crawl->unchanged);
}

/* render(form, depth, room): the next piece of text, b"" at the end. */
static PyObject *walker_render(PyObject *self, PyObject *arguments) {
    int form;
    long long depth;
    Py_ssize_t room;
    if (!PyArg_ParseTuple(arguments, "iLn", &form, &depth, &room)) return NULL;
    Walker *walker = (Walker *)self;
    Renderer *renderer = &walker->renderer;
    if (!is_whole(walker->crawl)) return NULL;
    renderer->crawl = walker->crawl, renderer->form = form, renderer->depth = depth;
    char *out = malloc((size_t)room);
    if (!out) return PyErr_NoMemory();
    ptrdiff_t size;
    Py_BEGIN_ALLOW_THREADS
    size = render(renderer, out, (size_t)room);
    Py_END_ALLOW_THREADS
    PyObject *found = size < 0 ? PyErr_NoMemory() : PyBytes_FromStringAndSize(out, size);
    free(out);
    return found;
}

/* entries(which, room): the next entries, a letter, the path and a NUL each; b"" at the end. Another `which` begins anew. */
static PyObject *walker_entries(PyObject *self, PyObject *arguments) {
    int which;
    Py_ssize_t room;
    if (!PyArg_ParseTuple(arguments, "in", &which, &room)) return NULL;
    Walker *walker = (Walker *)self;
    if (!is_whole(walker->crawl)) return NULL;
    if (which != SPECIAL && which != REST) {
        PyErr_SetString(PyExc_ValueError, "there are two kinds of entries");
        return NULL;
    }
    if (which != walker->listed) end_lister(&walker->lister), walker->listed = which;
    walker->lister.crawl = walker->crawl;
    char *out = malloc((size_t)room);
    if (!out) return PyErr_NoMemory();
    ptrdiff_t size;
    Py_BEGIN_ALLOW_THREADS
    size = list_entries(&walker->lister, which, out, (size_t)room);
    Py_END_ALLOW_THREADS
    PyObject *found = size < 0 ? PyErr_NoMemory() : PyBytes_FromStringAndSize(out, size);
    free(out);
    return found;
}

static PyMethodDef methods[] = {
    {"start", walker_start, METH_NOARGS, "Start the threads."},
    {"wait", walker_wait, METH_VARARGS, "wait(seconds) -> True when nothing is left to do here."},
    {"stop", walker_stop, METH_NOARGS, "Let the threads drop what is left."},
    {"end", walker_end, METH_NOARGS, "Join the threads."},
    {"state", walker_state, METH_NOARGS, "(entries, bytes, directories waiting, threads without work)."},
    {"slowest", walker_slowest, METH_NOARGS, "(path, seconds) of the slowest directory, or None."},
    {"logged", walker_logged, METH_NOARGS, "Paths down to log_depth that were opened since the last call."},
    {"faults", walker_faults, METH_NOARGS, "[(path, errno)]; the root's path is empty."},
    {"take", walker_take, METH_VARARGS, "take(most) -> [(number, path, depth, ancestors)] lent to another rank."},
    {"give", walker_give, METH_VARARGS, "give(rank, number, path, depth, ancestors): borrow a directory."},
    {"shard", walker_shard, METH_VARARGS, "shard(n) -> what the n-th borrowed directory holds, or None."},
    {"add_shard", walker_add_shard, METH_VARARGS, "add_shard(rank, data): take what that rank found."},
    {"list_begin", walker_list_begin, METH_VARARGS, "list_begin(kind, end, escapes, comments, root, program): take a list."},
    {"list_feed", walker_list_feed, METH_VARARGS, "list_feed(data, last) -> how many bytes were whole records."},
    {"list_end", walker_list_end, METH_NOARGS, "list_end() -> (faults, [(line, code, text)], lines, complete)."},
    {"know", walker_know, METH_VARARGS, "know(types, sizes, ends, names, offsets, mtimes, stamps): an earlier crawl."},
    {"stamps", walker_stamps, METH_VARARGS, "stamps(limit, room) -> of the next directories, b'' at the end."},
    {"unchanged", walker_unchanged, METH_NOARGS, "How many directories are as the earlier crawl had them."},
    {"settle", walker_settle, METH_NOARGS, "Sum up; (entries, files, directories, links, others, bytes)."},
    {"render", walker_render, METH_VARARGS, "render(form, depth, room) -> the next piece of text, b'' at the end."},
    {"entries", walker_entries, METH_VARARGS, "entries(which, room) -> the next entries by name, b'' at the end."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, walker_new}, {Py_tp_dealloc, walker_dealloc}, {Py_tp_methods, methods},
    {Py_tp_doc, "One walk: Walker(root, name, ...), start, wait, settle, render."}, {0, NULL},
};
static PyType_Spec spec = {"lading.crawl._walk.Walker", sizeof(Walker), 0, Py_TPFLAGS_DEFAULT, slots};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_walk", "The compiled crawl core.", -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__walk(void) {
    PyObject *found = PyModule_Create(&module), *type = found ? PyType_FromSpec(&spec) : NULL;
    if (!type || PyModule_AddObject(found, "Walker", type)) {
        Py_XDECREF(type), Py_XDECREF(found);
        return NULL;
    }
    return found;
}
