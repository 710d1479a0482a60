/* Digests of many files in one call: sixteen MD5s side by side, SHA-256 and CRC64NVME of the same bytes.
 *
 * Input: [(path, part)], part in bytes and a multiple of BLOCK, 0 for a plain MD5, a byte array whose first byte, once it is not 0, cancels
 * what is not done, and the descriptor of the directory below which the paths lie (-1: none), and whether links are
 * followed there. Output: for each an errno, the type bits of its mode as a negative number when it is no regular file,
 * or (MD5s of its parts, MD5, SHA-256 or None, CRC64, stamp before, stamp after).
 * Invariant: unless links are followed, none is gone through below the directory, nor at the end of a path where there
 * is none (lading/core/opening.py says the same in Python); bytes are read up to the size that the first stat told; whether
 * they belong to one state of the file is for the caller to see in the stamps.
 * The interpreter lock is not held while files are read.
 *
 * A file in one piece occupies a lane. One in parts is read by itself, in order: each byte has to go through the MD5
 * of its part and through that of the whole, and these two go on side by side.
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
} Lane;

typedef struct {
    File *files;
    Py_ssize_t count, next;
    int with_sha, active;
    const volatile char *stop;
    int root, follow;
    Lane lanes[LANES];
    uint32_t md5[4][LANES];
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
    sha256_begin(f->sha);
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

/* Read a file in parts to its end; ``block`` is a free buffer. A part ends with a block, the last one with the file. */
static void digest_parts(Work *w, File *f, uint8_t *block) {
    uint32_t part[4], whole[4];
    int64_t position = 0;
    size_t held = 0;
    md5_start(whole);
    for (int64_t number = 0; number < f->parts; number++) {
        int64_t end = number + 1 < f->parts ? (number + 1) * f->part : f->size;
        md5_start(part);
        while (position < end) {
            if (is_stopped(w)) f->error = ECANCELED;
            if (f->error) return;
            size_t room = end - position < ROOM ? (size_t)(end - position) : ROOM;
            ssize_t got = read_at(f->descriptor, block + held, room, position);
            if (got < 0) f->error = errno;
            if (got <= 0) return; /* it became shorter: its second stamp says so */
            f->crc = crc64(f->crc, block + held, (size_t)got);
            held += (size_t)got, position += got;
            md5_parts(part, whole, w->with_sha ? f->sha : NULL, block, held / BLOCK);
            memmove(block, block + held / BLOCK * BLOCK, held % BLOCK);
            held %= BLOCK;
        }
        uint8_t last[2 * BLOCK];
        memcpy(last, block, held);
        md5_one(part, last, (held + pad(last + held, held, end - number * f->part, 0)) / BLOCK);
        memcpy(f->md5 + 16 * number, part, 16);
    }
    uint8_t last[2 * BLOCK];
    memcpy(last, block, held);
    md5_one(whole, last, (held + pad(last + held, held, f->size, 0)) / BLOCK);
    memcpy(f->md5 + 16 * f->parts, whole, 16);
    if (w->with_sha) sha256_blocks(f->sha, last, (held + pad(last + held, held, f->size, 1)) / BLOCK);
    f->done = 1;
}

/* Give a free lane its next file in one piece; those in parts stay open for later. False when there is none. */
static int begin_stream(Work *w, int number) {
    Lane *lane = &w->lanes[number];
    while (w->next < w->count) {
        File *f = &w->files[w->next++];
        if (open_file(w, f)) end_file(f);
        if (f->error || f->parts > 1) continue;
        *lane = (Lane){.file = f, .length = f->size};
        md5_begin(w->md5, number);
        w->active++;
        return 1;
    }
    lane->file = NULL;
    return 0;
}

static void end_stream(Work *w, int number) {
    Lane *lane = &w->lanes[number];
    File *f = lane->file;
    for (int word = 0; word < 4; word++) memcpy(f->md5 + 4 * word, &w->md5[word][number], 4);
    memcpy(f->md5 + 16, f->md5, 16);
    f->done = 1;
    end_file(f);
    lane->file = NULL;
    w->active--;
}

/* Read on; at the end of the stream append the padding. The SHA-256 of what came is left to the caller. */
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

static void close_stream(Work *w, int number) {
    Lane *lane = &w->lanes[number];
    lane->end += pad(buffer(w, number) + lane->end, lane->end, lane->length, 0);
    lane->padded = 1;
}

/* SHA-256 of what lanes have just read, two of them at a time. Whole blocks only; the rest comes with the next. */
static void sum_lanes(Work *w, const int *fresh, int count) {
    int waiting = -1;
    for (int i = 0; i < count; i++) {
        if (waiting < 0) {
            waiting = fresh[i];
            continue;
        }
        Lane *a = &w->lanes[waiting], *b = &w->lanes[fresh[i]];
        uint8_t *first = buffer(w, waiting), *second = buffer(w, fresh[i]);
        size_t m = a->end / BLOCK, n = b->end / BLOCK, both = m < n ? m : n;
        sha256_two(a->file->sha, first, b->file->sha, second, both);
        if (m > both) sha256_blocks(a->file->sha, first + both * BLOCK, m - both);
        if (n > both) sha256_blocks(b->file->sha, second + both * BLOCK, n - both);
        waiting = -1;
    }
    if (waiting >= 0) {
        Lane *lane = &w->lanes[waiting];
        sha256_blocks(lane->file->sha, buffer(w, waiting), lane->end / BLOCK);
    }
    for (int i = 0; i < count; i++) {
        Lane *lane = &w->lanes[fresh[i]];
        if (lane->taken < lane->length) continue;
        uint8_t last[2 * BLOCK];
        size_t used = lane->end % BLOCK;
        memcpy(last, buffer(w, fresh[i]) + lane->end - used, used);
        sha256_blocks(lane->file->sha, last, (used + pad(last + used, used, lane->length, 1)) / BLOCK);
    }
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

static void digest_all(Work *w) {
    const uint8_t *data[LANES];
    for (int i = 0; i < LANES && !is_stopped(w); i++) begin_stream(w, i);
    while (w->active && !is_stopped(w)) {
        int fresh[LANES], count = 0;
        unsigned used = 0;
        size_t blocks = ROOM / BLOCK + 2;
        for (int i = 0; i < LANES; i++) {
            Lane *lane = &w->lanes[i];
            if (lane->file && !lane->padded && lane->end - lane->position < BLOCK) fill(w, i), fresh[count++] = i;
        }
        if (w->with_sha && count) sum_lanes(w, fresh, count);
        for (int k = 0; k < count; k++)
            if (w->lanes[fresh[k]].taken == w->lanes[fresh[k]].length) close_stream(w, fresh[k]);
        for (int i = 0; i < LANES; i++) {
            Lane *lane = &w->lanes[i];
            data[i] = lane->file ? buffer(w, i) + lane->position : buffer(w, LANES);
            if (!lane->file) continue;
            used |= 1u << i;
            if ((lane->end - lane->position) / BLOCK < blocks) blocks = (lane->end - lane->position) / BLOCK;
        }
        md5_blocks(w->md5, data, used, blocks);
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
    for (Py_ssize_t i = 0; i < w->count && !is_stopped(w); i++) {
        File *f = &w->files[i];
        if (f->error || f->done) continue;
        digest_parts(w, f, buffer(w, 0));
        end_file(f);
    }
    if (is_stopped(w)) cancel(w);
}

static PyObject *stamp(const struct stat *s) {
    return Py_BuildValue("(LLLKK)", (long long)s->st_size, (long long)saturated_ns(s->st_mtim),
                         (long long)saturated_ns(s->st_ctim), (unsigned long long)s->st_ino,
                         (unsigned long long)s->st_dev);
}

static PyObject *result(const File *f, int with_sha) {
    if (f->error) return PyLong_FromLong(f->error);
    uint8_t sha[32];
    for (int i = 0; i < 32; i++) sha[i] = (uint8_t)(f->sha[i / 4] >> (24 - 8 * (i % 4)));
    return Py_BuildValue("(y#y#y#KNN)", f->md5, (Py_ssize_t)f->parts * 16, f->md5 + 16 * f->parts, (Py_ssize_t)16,
                         with_sha ? (const char *)sha : NULL, (Py_ssize_t)32, (unsigned long long)f->crc,
                         stamp(&f->before), stamp(&f->after));
}

static PyObject *digest_files(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *tasks, *stop = NULL, *list = NULL;
    int root = -1, follow = 0;
    /* The arguments hold both objects until the end. */
    if (!PyArg_ParseTuple(arguments, "O|Yip", &tasks, &stop, &root, &follow)) return NULL;
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
    *w = (Work){.files = files, .count = count, .buffers = buffers, .with_sha = sha256_setup(),
                .root = root, .follow = follow};
    w->stop = stop && PyByteArray_Size(stop) ? PyByteArray_AsString(stop) : NULL;
    Py_BEGIN_ALLOW_THREADS;
    digest_all(w);
    Py_END_ALLOW_THREADS;
    list = PyList_New(count);
    for (Py_ssize_t i = 0; list && i < count; i++) {
        PyObject *item = result(&files[i], w->with_sha);
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

static PyMethodDef methods[] = {
    {"digest_files", digest_files, METH_VARARGS,
     "digest_files([(path, part)], stop=bytearray(1), root=-1, follow=False) -> "
     "[errno or -type or (MD5s, MD5, SHA-256 or None, CRC64, before, after)]."},
    {NULL, NULL, 0, NULL}};

static int module_exec(PyObject *module) {
    if (PyModule_AddIntConstant(module, "WHOLE", 1)) return -1; /* older builds have no MD5 of the whole beside those of parts */
    md5_setup();
    crc64_setup();
    sha256_setup();
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
