/* Turn samples of two bytes from frames to channels, and compare them there, in one pass over each.
 *
 * Input: rows, the samples of some frames (frames x channels), and turned, a
 * whole chunk (channels x length), of which frames at to at + frames are meant.
 * Output: turn fills that part of turned; equal tells whether it holds the
 * very bits of rows.
 * Invariant: both do what codecs.py does with numpy, which serves other types
 * and where this was not built; nothing outside that part is read or written.
 * Why: numpy moves one sample at a time, and for its comparison makes an array
 * of truth values in an order that suits one of the two sides. Here squares of
 * 8 x 8 samples pass through vector registers, 32 frames and 32 channels at a
 * time, so that whole cache lines are used on both sides.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { ITEM = 2, SIDE = 8, TILE = 32, AHEAD = 2 * TILE };

typedef uint16_t Lanes __attribute__((vector_size(16)));
typedef uint16_t Unaligned __attribute__((vector_size(16), aligned(1), may_alias));

#if defined(__clang__)
#define ZIP(first, second, ...) __builtin_shufflevector(first, second, __VA_ARGS__)
#else
#define ZIP(first, second, ...) __builtin_shuffle(first, second, (Lanes){__VA_ARGS__})
#endif

/* A function of its own for each constant `compare`. */
#define FOLDED static inline __attribute__((always_inline))

/* A part of a block; width and length are the bytes from frame to frame in rows, from channel to channel in turned. */
typedef struct {
    const uint8_t *rows;
    uint8_t *turned;
    size_t width, length, frames, channels;
} Part;

FOLDED Part inside(const Part *whole, size_t frame, size_t channel, size_t frames, size_t channels) {
    Part p = *whole;
    p.rows += frame * p.width + channel * ITEM;
    p.turned += channel * p.length + frame * ITEM;
    p.frames = frames, p.channels = channels;
    return p;
}

/* Three perfect shuffles of its eight rows turn a square. */
FOLDED void turn_square(Lanes rows[SIDE]) {
    Lanes mixed[SIDE];
#pragma GCC unroll 3
    for (int stage = 0; stage < 3; stage++) {
#pragma GCC unroll 4
        for (int row = 0; row < SIDE / 2; row++) {
            mixed[2 * row] = ZIP(rows[row], rows[row + SIDE / 2], 0, 8, 1, 9, 2, 10, 3, 11);
            mixed[2 * row + 1] = ZIP(rows[row], rows[row + SIDE / 2], 4, 12, 5, 13, 6, 14, 7, 15);
        }
#pragma GCC unroll 8
        for (int row = 0; row < SIDE; row++) rows[row] = mixed[row];
    }
}

/* Turn or compare one square; return whether it is equal now. */
FOLDED int square(Part p, int compare) {
    Lanes rows[SIDE], differ = {0};
    const uint8_t *from = compare ? p.turned : p.rows;
    size_t stride = compare ? p.length : p.width;
#pragma GCC unroll 8
    for (size_t i = 0; i < SIDE; i++) rows[i] = *(const Unaligned *)(from + i * stride);
    turn_square(rows);
#pragma GCC unroll 8
    for (size_t i = 0; i < SIDE; i++) {
        if (compare)
            differ |= rows[i] ^ *(const Unaligned *)(p.rows + i * p.width);
        else
            *(Unaligned *)(p.turned + i * p.length) = rows[i];
    }
    uint64_t halves[2];
    memcpy(halves, &differ, sizeof halves);
    return !(halves[0] | halves[1]);
}

/* The same for what is left at the edges. */
static int one_by_one(Part p, int compare) {
    for (size_t channel = 0; channel < p.channels; channel++)
        for (size_t frame = 0; frame < p.frames; frame++) {
            const uint8_t *row = p.rows + frame * p.width + channel * ITEM;
            uint8_t *column = p.turned + channel * p.length + frame * ITEM;
            if (!compare)
                memcpy(column, row, ITEM);
            else if (memcmp(column, row, ITEM))
                return 0;
        }
    return 1;
}

FOLDED int tile(Part p, int compare) {
    size_t frames = p.frames - p.frames % SIDE, channels = p.channels - p.channels % SIDE;
    int same = 1;
    for (size_t channel = 0; channel < channels; channel += SIDE)
        for (size_t frame = 0; frame < frames; frame += SIDE)
            same &= square(inside(&p, frame, channel, SIDE, SIDE), compare);
    if (frames < p.frames) same &= one_by_one(inside(&p, frames, 0, p.frames - frames, p.channels), compare);
    if (channels < p.channels) same &= one_by_one(inside(&p, 0, channels, frames, p.channels - channels), compare);
    return same;
}

/* Ask for the lines that a later tile fills: they lie too far apart for the processor to guess them. */
FOLDED void expect_writes(const Part *p, size_t channel, size_t channels, size_t frame) {
    if (frame >= p->frames) return;
    const uint8_t *line = p->turned + channel * p->length + frame * ITEM;
    for (size_t i = 0; i < channels; i++) __builtin_prefetch(line + i * p->length, 1);
}

FOLDED int walk(const Part *p, int compare) {
    for (size_t channel = 0; channel < p->channels; channel += TILE)
        for (size_t frame = 0; frame < p->frames; frame += TILE) {
            size_t frames = p->frames - frame < TILE ? p->frames - frame : TILE;
            size_t channels = p->channels - channel < TILE ? p->channels - channel : TILE;
            if (!compare) expect_writes(p, channel, channels, frame + AHEAD);
            if (!tile(inside(p, frame, channel, frames, channels), compare)) return 0;
        }
    return 1;
}

/* Check the sizes and do it; -1 with an exception, else whether both are equal now. */
static int work(Py_buffer *rows, Py_buffer *turned, Py_ssize_t channels, Py_ssize_t at, int compare) {
    Py_ssize_t width = channels > 0 && channels <= PY_SSIZE_T_MAX / ITEM ? channels * ITEM : 0;
    if (!width || rows->len % width || turned->len % width || at < 0 || at > turned->len / width ||
        rows->len / width > turned->len / width - at) {
        PyErr_SetString(PyExc_ValueError, "the block does not lie within the chunk");
        return -1;
    }
    Part whole = {.rows = rows->buf,
                  .turned = (uint8_t *)turned->buf + at * ITEM,
                  .width = (size_t)width,
                  .length = (size_t)(turned->len / channels),
                  .frames = (size_t)(rows->len / width),
                  .channels = (size_t)channels};
    int same;
    Py_BEGIN_ALLOW_THREADS;
    same = compare ? walk(&whole, 1) : walk(&whole, 0);
    Py_END_ALLOW_THREADS;
    return same;
}

static PyObject *turn(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer rows, turned;
    Py_ssize_t channels, at;
    if (!PyArg_ParseTuple(arguments, "y*w*nn", &rows, &turned, &channels, &at)) return NULL;
    int same = work(&rows, &turned, channels, at, 0);
    PyBuffer_Release(&rows), PyBuffer_Release(&turned);
    return same < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *equal(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer rows, turned;
    Py_ssize_t channels, at;
    if (!PyArg_ParseTuple(arguments, "y*y*nn", &rows, &turned, &channels, &at)) return NULL;
    int same = work(&rows, &turned, channels, at, 1);
    PyBuffer_Release(&rows), PyBuffer_Release(&turned);
    return same < 0 ? NULL : PyBool_FromLong(same);
}

static PyObject *identical(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer one, other;
    if (!PyArg_ParseTuple(arguments, "y*y*", &one, &other)) return NULL;
    int same;
    Py_BEGIN_ALLOW_THREADS;
    same = one.len == other.len && !memcmp(one.buf, other.buf, (size_t)one.len);
    Py_END_ALLOW_THREADS;
    PyBuffer_Release(&one), PyBuffer_Release(&other);
    return PyBool_FromLong(same);
}

static PyMethodDef methods[] = {
    {"turn", turn, METH_VARARGS, "turn(rows, turned, channels, at): fill frames from at of turned with rows."},
    {"equal", equal, METH_VARARGS, "equal(rows, turned, channels, at) -> whether turned holds rows there."},
    {"identical", identical, METH_VARARGS, "identical(one, other) -> whether two buffers hold the same bytes."},
    {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {{0, NULL}};
static struct PyModuleDef definition = {.m_base = PyModuleDef_HEAD_INIT,
                                        .m_name = "_turn",
                                        .m_doc = "Samples by frames and by channels.",
                                        .m_size = 0,
                                        .m_methods = methods,
                                        .m_slots = slots};

PyMODINIT_FUNC PyInit__turn(void) { return PyModuleDef_Init(&definition); }
