/* Digests of many files in one call: sixteen MD5s side by side, SHA-256 and CRC64NVME of the same bytes.
 *
 * Input: [(path, part)], part in bytes and a multiple of BLOCK, 0 for a plain MD5, a byte array whose first byte, once it is not 0, cancels
 * what is not done, and the descriptor of the directory below which the paths lie (-1: none), and whether links are
 * followed there; and the path of SHA-256 (digest.h). Output: for each an errno, the type bits of its mode as a negative number when it is no regular file,
 * or (MD5s of its parts, MD5, SHA-256 or None, CRC64, stamp before, stamp after).
 * Invariant: unless links are followed, none is gone through below the directory, nor at the end of a path where there
 * is none (lading/core/opening.py says the same in Python); bytes are read up to the size that the first stat told; whether
 * they belong to one state of the file is for the caller to see in the stamps.
 * The interpreter lock is not held while files are read.
 *
 * A file occupies a lane, and all lanes go on by the same number of blocks. One in parts is read in order, too: each byte
 * has to go through the MD5 of its part and through that of the whole.
 *
 * ``sha256_buffers`` gives the SHA-256 alone, of bytes that are in memory already.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../core/times.h"
#include "digest.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
enum { ROOM = 32 << 10, SLACK = 2 * BLOCK }; /* of a lane's buffer: 16 of them fit the second-level cache */

typedef struct {
    const char *path;
    int64_t part, size, parts;
    int descriptor, error, done;
    struct stat before, after;
    uint8_t *md5; /* 16 bytes a part, and of the whole behind them */
    uint64_t crc;
    uint32_t sha[8];
} File;

typedef struct {
    File *file; /* NULL: the lane is free */
    int64_t length, taken; /* taken: bytes read */
    size_t position, end; /* of what is in the buffer */
    int padded;
    int64_t hashed, number; /* blocks of the stream; the part */
    uint8_t tail[BLOCK], last[BLOCK]; /* at the end: what is no whole block; the last block as SHA-256 has it */
} Lane;

typedef struct {
    File *files;
    Py_ssize_t count, next;
    Path path;
    int active;
    const volatile char *stop;
    int root, follow;
    Lane lanes[LANES];
    uint32_t md5[4][LANES], part[4][LANES], sha[8][LANES];
    uint8_t *buffers; /* LANES of ROOM + SLACK, and one that free lanes hash in vain */
} Work;

static uint8_t *buffer(Work *w, int lane) { return w->buffers + (size_t)lane * (ROOM + SLACK); }

/* Append the padding of a message of ``length`` bytes to its last ``used`` ones; returns the new end. */
static size_t pad(uint8_t *end, size_t used, int64_t length, int big_endian) {
    size_t zeros = (119 - used % BLOCK) % BLOCK;
    uint64_t bits = (uint64_t)length * 8;
    end[0] = 0x80;
    memset(end + 1, 0, zeros);
    for (int i = 0; i < 8; i++) end[1 + zeros + i] = (uint8_t)(bits >> (big_endian ? 56 - 8 * i : 8 * i));
    return 1 + zeros + 8;
}

static const int READ = O_RDONLY | O_CLOEXEC | O_NONBLOCK; /* a pipe would wait for its writer */

/* Tell whether a component of a path is empty, "." or "..". */
static int leads_elsewhere(const char *path) {
    for (const char *part = path;; part++) {
        size_t length = strcspn(part, "/");
        if (!length || (part[0] == '.' && (length == 1 || (length == 2 && part[1] == '.')))) return 1;
        part += length;
        if (!*part) return 0;
    }
}

/* Open a file below the directory ``root``, its components one by one, none of them a link. */
static int walk_below(int root, const char *path) {
    char part[NAME_MAX + 1];
    int directory = root;
    for (;;) {
        size_t length = strcspn(path, "/");
        int number = ENAMETOOLONG, found = -1;
        if (length <= NAME_MAX) {
            memcpy(part, path, length);
            part[length] = 0;
            int flags = path[length] ? O_PATH | O_DIRECTORY | O_CLOEXEC : READ;
            found = openat(directory, part, flags | O_NOFOLLOW);
            number = errno;
        }
        if (directory != root) close(directory);
        errno = number;
        if (found < 0 || !path[length]) return found;
        directory = found;
        path += length + 1;
    }
}

static int open_below(int root, int follow, const char *path) {
    struct {
        uint64_t flags, mode, resolve;
    } how = {(uint64_t)(READ | O_NOFOLLOW), 0, 0x02 | 0x04 | 0x08}; /* linux/openat2.h: no magic links, none at all, below */
    if (root < 0) return open(path, READ | (follow ? 0 : O_NOFOLLOW));
    if (leads_elsewhere(path)) return errno = EXDEV, -1;
    if (follow) return openat(root, path, READ);
    int found;
    do found = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
    while (found < 0 && (errno == EINTR || errno == EAGAIN));
    /* EPERM: also what containers answer to calls that they do not know. */
    return found < 0 && (errno == ENOSYS || errno == EPERM) ? walk_below(root, path) : found;
}

static int open_file(const Work *w, File *f) {
    f->descriptor = open_below(w->root, w->follow, f->path);
    if (f->descriptor < 0 || fstat(f->descriptor, &f->before)) return f->error = errno;
    if (!S_ISREG(f->before.st_mode)) return f->error = -(int)(f->before.st_mode & S_IFMT);
    if (fcntl(f->descriptor, F_SETFL, 0)) return f->error = errno; /* a file on tape is waited for */
    f->size = f->before.st_size;
    f->parts = f->part && f->size > f->part ? (f->size + f->part - 1) / f->part : 1;
    f->md5 = calloc((size_t)f->parts + 1, 16);
    if (!f->md5) return f->error = ENOMEM;
    return 0;
}

static void end_file(File *f) {
    if (f->descriptor < 0) return;
    if (!f->error && fstat(f->descriptor, &f->after)) f->error = errno;
    close(f->descriptor);
    f->descriptor = -1;
}

static ssize_t read_at(int descriptor, uint8_t *target, size_t room, int64_t offset) {
    ssize_t got;
    do got = pread(descriptor, target, room, offset);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Tell whether the caller wants no more. */
static int is_stopped(const Work *w) { return w->stop && *w->stop; }

/* Give a free lane its next file. False when there is none. */
static int begin_stream(Work *w, int number) {
    Lane *lane = &w->lanes[number];
    while (w->next < w->count) {
        File *f = &w->files[w->next++];
        if (open_file(w, f)) end_file(f);
        if (f->error) continue;
        *lane = (Lane){.file = f, .length = f->size};
        md5_begin(w->md5, number), md5_begin(w->part, number), sha256_begin(w->sha, number);
        w->active++;
        return 1;
    }
    lane->file = NULL;
    return 0;
}

/* The MD5 of a lane's part is done but for the ``used`` bytes of ``tail``; the next part begins. */
static void end_part(Work *w, int number, const uint8_t *tail, size_t used) {
    Lane *lane = &w->lanes[number];
    File *f = lane->file;
    uint32_t state[4];
    uint8_t last[2 * BLOCK];
    int64_t length = lane->number + 1 < f->parts ? f->part : lane->length - lane->number * f->part;
    for (int word = 0; word < 4; word++) state[word] = w->part[word][number];
    memcpy(last, tail, used);
    md5_one(state, last, (used + pad(last + used, used, length, 0)) / BLOCK);
    memcpy(f->md5 + 16 * lane->number++, state, 16);
    md5_begin(w->part, number);
}

static void end_stream(Work *w, int number) {
    Lane *lane = &w->lanes[number];
    File *f = lane->file;
    if (f->parts > 1 && lane->number < f->parts) end_part(w, number, lane->tail, (size_t)(lane->length % BLOCK));
    for (int word = 0; word < 4; word++) memcpy(f->md5 + 16 * f->parts + 4 * word, &w->md5[word][number], 4);
    if (f->parts == 1) memcpy(f->md5, f->md5 + 16, 16);
    for (int word = 0; word < 8; word++) f->sha[word] = w->sha[word][number];
    f->done = 1;
    end_file(f);
    lane->file = NULL;
    w->active--;
}

/* Read on. */
static void fill(Work *w, int number) {
    Lane *lane = &w->lanes[number];
    File *f = lane->file;
    uint8_t *base = buffer(w, number);
    size_t held = lane->end - lane->position;
    memmove(base, base + lane->position, held);
    lane->position = 0, lane->end = held;
    while (lane->end < ROOM && lane->taken < lane->length) {
        size_t room = ROOM - lane->end;
        if ((int64_t)room > lane->length - lane->taken) room = (size_t)(lane->length - lane->taken);
        ssize_t got = read_at(f->descriptor, base + lane->end, room, lane->taken);
        if (got < 0) f->error = errno;
        if (got <= 0) lane->length = lane->taken; /* it became shorter: its second stamp says so */
        if (got <= 0) break;
        f->crc = crc64(f->crc, base + lane->end, (size_t)got);
        lane->end += (size_t)got, lane->taken += got;
    }
}

/* All is read: append the padding. */
static void close_stream(Work *w, int number) {
    Lane *lane = &w->lanes[number];
    uint8_t *base = buffer(w, number);
    size_t used = lane->end % BLOCK;
    memcpy(lane->tail, base + lane->end - used, used);
    lane->end += pad(base + lane->end, lane->end, lane->length, 0);
    lane->padded = 1;
    memcpy(lane->last, base + lane->end - BLOCK, BLOCK);
    for (int i = 0; i < 8; i++) lane->last[BLOCK - 8 + i] = base[lane->end - 1 - (size_t)i]; /* the length, turned */
}

/* Make what is not done an error. */
static void cancel(Work *w) {
    for (Py_ssize_t i = 0; i < w->count; i++) {
        File *f = &w->files[i];
        if (f->done) continue;
        if (!f->error) f->error = ECANCELED;
        end_file(f); /* one that could not be read is open, too, until its lane ends */
    }
}

/* How many blocks a lane can go on at once: to the end of what is read or of its part. The last block of the padding, which
 * is another one for SHA-256, goes apart. ``plain``: whole blocks of the file that are left. */
static size_t step_of(const Lane *lane, int64_t plain) {
    const File *f = lane->file;
    size_t left = (lane->end - lane->position) / BLOCK;
    if (lane->padded && left > 1) left--;
    if (f->parts == 1 || plain <= 0) return left;
    if ((int64_t)left > plain) left = (size_t)plain;
    int64_t to_end = (lane->number + 1) * (f->part / BLOCK) - lane->hashed;
    return lane->number + 1 < f->parts && (int64_t)left > to_end ? (size_t)to_end : left;
}

/* Go on with the one lane that there is, a file in parts, its three chains side by side. */
static void go_alone(Work *w, int lane, const uint8_t *const data[LANES], size_t blocks) {
    uint32_t part[4], whole[4], sha[8];
    for (int word = 0; word < 4; word++) part[word] = w->part[word][lane], whole[word] = w->md5[word][lane];
    for (int word = 0; word < 8; word++) sha[word] = w->sha[word][lane];
    md5_parts(part, whole, sha, data[lane], blocks);
    for (int word = 0; word < 4; word++) w->part[word][lane] = part[word], w->md5[word][lane] = whole[word];
    for (int word = 0; word < 8; word++) w->sha[word][lane] = sha[word];
}

/* Go on with two to FEW lanes, all their chains in one loop. */
static void go_few(Work *w, unsigned used, unsigned parted, const uint8_t *const data[LANES], size_t blocks) {
    uint32_t md5[4][2 * FEW], sha[FEW][8];
    const uint8_t *streams[FEW];
    int from[FEW], count = 0;
    for (int lane = 0; lane < LANES; lane++)
        if (used >> lane & 1) from[count++] = lane;
    for (int i = 0; i < FEW; i++) {
        int lane = from[i < count ? i : 0]; /* what is hashed in vain is readable, too */
        streams[i] = data[lane];
        for (int word = 0; word < 4; word++) md5[word][i] = w->md5[word][lane], md5[word][FEW + i] = w->part[word][lane];
        for (int word = 0; word < 8; word++) sha[i][word] = w->sha[word][lane];
    }
    few_blocks(w->path, md5, sha, streams, blocks);
    for (int i = 0; i < count; i++) {
        int lane = from[i];
        for (int word = 0; word < 4; word++) w->md5[word][lane] = md5[word][i];
        for (int word = 0; word < 4 && parted >> lane & 1; word++) w->part[word][lane] = md5[word][FEW + i];
        for (int word = 0; word < 8; word++) w->sha[word][lane] = sha[i][word];
    }
}

/* Go on with all lanes by as many blocks as each of them can; returns how many. */
static size_t step(Work *w) {
    const uint8_t *data[LANES], *sums[LANES];
    unsigned used = 0, parted = 0;
    int apart = 0; /* lanes of which SHA-256 takes another block than MD5 */
    size_t blocks = SIZE_MAX;
    for (int i = 0; i < LANES; i++) {
        const Lane *lane = &w->lanes[i];
        data[i] = sums[i] = lane->file ? buffer(w, i) + lane->position : buffer(w, LANES);
        if (!lane->file) continue;
        /* The padding does not count for its parts. */
        int64_t plain = lane->length / BLOCK - lane->hashed;
        size_t most = step_of(lane, plain);
        used |= 1u << i;
        if (lane->file->parts > 1 && plain > 0) parted |= 1u << i;
        if (lane->padded && lane->end - lane->position == BLOCK) sums[i] = lane->last, apart++;
        if (most < blocks) blocks = most;
    }
    if (used == parted && !(used & (used - 1)) && (w->path == SHA_NI || w->path == SHA_NI_AVX512)) {
        go_alone(w, __builtin_ctz(used), data, blocks);
    } else if (__builtin_popcount(used) <= FEW && __builtin_popcount(used) > 1 && !apart && few_goes(w->path)) {
        go_few(w, used, parted, data, blocks);
    } else {
        md5_chains(w->path, w->md5, w->part, data, used, parted, blocks);
        sha256_lanes(w->path, w->sha, sums, used, blocks);
    }
    for (int i = 0; i < LANES; i++) {
        Lane *lane = &w->lanes[i];
        if (!lane->file) continue;
        lane->hashed += (int64_t)blocks;
        const File *f = lane->file;
        int inside = f->parts > 1 && lane->number + 1 < f->parts;
        if (inside && lane->hashed == (lane->number + 1) * (f->part / BLOCK)) end_part(w, i, lane->tail, 0);
    }
    return blocks;
}

static void digest_all(Work *w) {
    for (int i = 0; i < LANES && !is_stopped(w); i++) begin_stream(w, i);
    while (w->active && !is_stopped(w)) {
        for (int i = 0; i < LANES; i++) {
            Lane *lane = &w->lanes[i];
            if (!lane->file || lane->padded || lane->end - lane->position >= BLOCK) continue;
            fill(w, i);
            if (lane->taken == lane->length) close_stream(w, i);
        }
        size_t blocks = step(w);
        for (int i = 0; i < LANES; i++) {
            Lane *lane = &w->lanes[i];
            if (!lane->file) continue;
            lane->position += blocks * BLOCK;
            if (lane->padded && lane->position == lane->end) {
                end_stream(w, i);
                if (!is_stopped(w)) begin_stream(w, i);
            }
        }
    }
    if (is_stopped(w)) cancel(w);
}

static PyObject *stamp(const struct stat *s) {
    return Py_BuildValue("(LLLKK)", (long long)s->st_size, (long long)saturated_ns(s->st_mtim),
                         (long long)saturated_ns(s->st_ctim), (unsigned long long)s->st_ino,
                         (unsigned long long)s->st_dev);
}

static PyObject *result(const File *f, Path path) {
    if (f->error) return PyLong_FromLong(f->error);
    uint8_t sha[32];
    for (int i = 0; i < 32; i++) sha[i] = (uint8_t)(f->sha[i / 4] >> (24 - 8 * (i % 4)));
    return Py_BuildValue("(y#y#y#KNN)", f->md5, (Py_ssize_t)f->parts * 16, f->md5 + 16 * f->parts, (Py_ssize_t)16,
                         path ? (const char *)sha : NULL, (Py_ssize_t)32, (unsigned long long)f->crc,
                         stamp(&f->before), stamp(&f->after));
}

static const char *const NAMES[PATHS] = {"none", "sha_ni+avx512", "sha_ni", "avx512", "avx2", "plain"};

/* Return the path of a name, the best one where that is NULL, -1 when there is no such path here. */
static int find_path(const char *name) {
    for (int path = name ? NONE : NONE + 1; path < PATHS; path++)
        if (name ? !strcmp(name, NAMES[path]) && (!path || has_path((Path)path)) : has_path((Path)path)) return path;
    return name ? -1 : NONE;
}

static PyObject *digest_files(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *tasks, *stop = NULL, *list = NULL;
    const char *name = NULL;
    int root = -1, follow = 0;
    /* The arguments hold both objects until the end. */
    if (!PyArg_ParseTuple(arguments, "O|Yipz", &tasks, &stop, &root, &follow, &name)) return NULL;
    int path = find_path(name);
    if (path < 0) {
        PyErr_Format(PyExc_ValueError, "this processor has no path %s", name);
        return NULL;
    }
    Py_ssize_t count = PySequence_Size(tasks);
    if (count < 0) return NULL;
    Work *w = calloc(1, sizeof *w);
    File *files = calloc((size_t)count + 1, sizeof *files);
    PyObject **held = calloc((size_t)count + 1, sizeof *held);
    uint8_t *buffers = calloc(LANES + 1, ROOM + SLACK);
    if (!w || !files || !held || !buffers) {
        PyErr_NoMemory();
        goto end;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        long long part;
        held[i] = PySequence_GetItem(tasks, i);
        if (!held[i] || !PyArg_ParseTuple(held[i], "yL", &files[i].path, &part)) goto end;
        if (part % BLOCK) {
            PyErr_SetString(PyExc_ValueError, "a part is whole blocks of 64 bytes");
            goto end;
        }
        files[i].part = part > 0 ? part : 0;
        files[i].descriptor = -1;
    }
    *w = (Work){.files = files, .count = count, .buffers = buffers, .path = (Path)path,
                .root = root, .follow = follow};
    w->stop = stop && PyByteArray_Size(stop) ? PyByteArray_AsString(stop) : NULL;
    Py_BEGIN_ALLOW_THREADS;
    digest_all(w);
    Py_END_ALLOW_THREADS;
    list = PyList_New(count);
    for (Py_ssize_t i = 0; list && i < count; i++) {
        PyObject *item = result(&files[i], w->path);
        if (!item || PyList_SetItem(list, i, item)) Py_CLEAR(list);
    }
end:
    for (Py_ssize_t i = 0; files && i < count; i++) {
        free(files[i].md5);
        if (held) Py_XDECREF(held[i]);
    }
    free(w), free(files), free(held), free(buffers);
    return list;
}

/* A message in memory, and the lane in which it is. */
typedef struct {
    const uint8_t *data;
    size_t blocks; /* whole ones that are left of ``data`` */
    uint8_t tail[2 * BLOCK]; /* the rest and the padding */
    size_t tail_blocks;
    Py_ssize_t number; /* of the message; -1: the lane is free */
} Message;

static void begin_message(Message *m, const Py_buffer *view, Py_ssize_t number) {
    size_t length = (size_t)view->len, rest = length % BLOCK;
    m->data = view->buf, m->blocks = length / BLOCK, m->number = number;
    if (rest) memcpy(m->tail, m->data + length - rest, rest);
    m->tail_blocks = (rest + pad(m->tail + rest, rest, (int64_t)length, 1)) / BLOCK;
}

static void end_message(const uint32_t state[8][LANES], int lane, uint8_t *digest) {
    for (int i = 0; i < 32; i++) digest[i] = (uint8_t)(state[i / 4][lane] >> (24 - 8 * (i % 4)));
}

/* The SHA-256 of each message, sixteen side by side. */
static void sum_messages(Path path, const Py_buffer *views, Py_ssize_t count, uint8_t *digests) {
    Message lanes[LANES];
    uint32_t state[8][LANES];
    const uint8_t *data[LANES];
    Py_ssize_t next = 0;
    for (int i = 0; i < LANES; i++) lanes[i].number = -1;
    for (;;) {
        unsigned used = 0;
        size_t blocks = SIZE_MAX;
        for (int i = 0; i < LANES; i++) {
            Message *m = &lanes[i];
            if (m->number >= 0 && !m->blocks && !m->tail_blocks) {
                end_message(state, i, digests + 32 * m->number);
                m->number = -1;
            }
            if (m->number < 0 && next < count) {
                sha256_begin(state, i);
                begin_message(m, &views[next], next);
                next++;
            }
            data[i] = lanes[i].tail; /* readable, for a lane that is free */
            if (m->number < 0) continue;
            if (!m->blocks) m->data = m->tail, m->blocks = m->tail_blocks, m->tail_blocks = 0;
            data[i] = m->data;
            used |= 1u << i;
            if (m->blocks < blocks) blocks = m->blocks;
        }
        if (!used) return;
        sha256_lanes(path, state, data, used, blocks);
        for (int i = 0; i < LANES; i++)
            if (used >> i & 1) lanes[i].data += blocks * BLOCK, lanes[i].blocks -= blocks;
    }
}

static PyObject *sha256_buffers(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *buffers, *list = NULL;
    const char *name = NULL;
    if (!PyArg_ParseTuple(arguments, "O|z", &buffers, &name)) return NULL;
    int path = find_path(name);
    if (path <= NONE) {
        PyErr_Format(PyExc_ValueError, "this processor has no path %s", name ? name : "of SHA-256");
        return NULL;
    }
    Py_ssize_t count = PySequence_Size(buffers), held = 0;
    if (count < 0) return NULL;
    Py_buffer *views = calloc((size_t)count + 1, sizeof *views);
    uint8_t *digests = calloc((size_t)count + 1, 32);
    if (!views || !digests) {
        PyErr_NoMemory();
        goto end;
    }
    for (; held < count; held++) {
        PyObject *item = PySequence_GetItem(buffers, held);
        int failed = !item || PyObject_GetBuffer(item, &views[held], PyBUF_SIMPLE);
        Py_XDECREF(item); /* the view holds it */
        if (failed) goto end;
    }
    Py_BEGIN_ALLOW_THREADS;
    sum_messages((Path)path, views, count, digests);
    Py_END_ALLOW_THREADS;
    list = PyList_New(count);
    for (Py_ssize_t i = 0; list && i < count; i++) {
        PyObject *item = PyBytes_FromStringAndSize((const char *)digests + 32 * i, 32);
        if (!item || PyList_SetItem(list, i, item)) Py_CLEAR(list);
    }
end:
    for (Py_ssize_t i = 0; views && i < held; i++) PyBuffer_Release(&views[i]);
    free(views), free(digests);
    return list;
}

static PyObject *paths(PyObject *module, PyObject *arguments) {
    (void)module, (void)arguments;
    PyObject *list = PyList_New(0);
    for (int path = NONE + 1; list && path < PATHS; path++) {
        if (!has_path((Path)path)) continue;
        PyObject *name = PyUnicode_FromString(NAMES[path]);
        if (!name || PyList_Append(list, name)) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static PyMethodDef methods[] = {
    {"digest_files", digest_files, METH_VARARGS,
     "digest_files([(path, part)], stop=bytearray(1), root=-1, follow=False, path=None) -> "
     "[errno or -type or (MD5s, MD5, SHA-256 or None, CRC64, before, after)]."},
    {"sha256_buffers", sha256_buffers, METH_VARARGS, "sha256_buffers([bytes], path=None) -> [SHA-256]."},
    {"paths", paths, METH_NOARGS, "paths() -> names of the ways of SHA-256 that this processor can go, the best one first."},
    {NULL, NULL, 0, NULL}};

static int module_exec(PyObject *module) {
    if (PyModule_AddIntConstant(module, "WHOLE", 1)) return -1; /* older builds have no MD5 of the whole beside those of parts */
    md5_setup();
    crc64_setup();
    sha256_setup();
    few_setup();
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)module_exec}, {0, NULL}};
static struct PyModuleDef definition = {.m_base = PyModuleDef_HEAD_INIT,
                                        .m_name = "_digest",
                                        .m_doc = "Digests of many files in one call.",
                                        .m_size = 0,
                                        .m_methods = methods,
                                        .m_slots = slots};

PyMODINIT_FUNC PyInit__digest(void) { return PyModuleDef_Init(&definition); }
