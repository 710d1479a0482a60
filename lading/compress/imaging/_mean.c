/* The mean of windows of 2 x 2 x 2 voxels of one or two unsigned bytes, rounded half up; and whether two blocks are the same.
 *
 * Input: a block of even sides (z, y, x), its voxels side by side along x; the
 * distances between its planes and rows are its own. Output: a C-contiguous
 * block of half the sides.
 * Invariant: the values are those of pyramid.py's numpy, which serves other
 * types and windows and where this was not built; nothing else is touched.
 * Why: numpy widens every voxel and passes over the block eight times. Here
 * two neighbours are read as one word, of which the halves are added. To compare blocks whose rows lie apart, numpy
 * copies them together first.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* One row of the result from the four rows of its windows; `count` windows. */
#define DEFINE_ROW(name, voxel, word)                                                                  \
    static void name(const uint8_t *const rows[4], uint8_t *out, size_t count) {                       \
        enum { BITS = 8 * sizeof(voxel) };                                                             \
        for (size_t i = 0; i < count; i++) {                                                           \
            word sum = 4;                                                                              \
            for (int row = 0; row < 4; row++) {                                                        \
                word pair;                                                                             \
                memcpy(&pair, rows[row] + i * sizeof pair, sizeof pair);                               \
                sum = (word)(sum + (word)(pair & (word)((1u << BITS) - 1)) + (word)(pair >> BITS));    \
            }                                                                                          \
            voxel mean = (voxel)(sum >> 3);                                                            \
            memcpy(out + i * sizeof mean, &mean, sizeof mean);                                         \
        }                                                                                              \
    }

DEFINE_ROW(row_of_bytes, uint8_t, uint16_t)
DEFINE_ROW(row_of_shorts, uint16_t, uint32_t)

static void halve_all(const Py_buffer *block, uint8_t *out) {
    size_t depth = (size_t)block->shape[0] / 2, height = (size_t)block->shape[1] / 2;
    size_t width = (size_t)block->shape[2] / 2, size = (size_t)block->itemsize;
    Py_ssize_t plane = block->strides[0], line = block->strides[1];
    for (size_t z = 0; z < depth; z++)
        for (size_t y = 0; y < height; y++, out += width * size) {
            const uint8_t *at = (const uint8_t *)block->buf + 2 * (Py_ssize_t)z * plane + 2 * (Py_ssize_t)y * line;
            const uint8_t *const rows[4] = {at, at + line, at + plane, at + plane + line};
            if (size == 1)
                row_of_bytes(rows, out, width);
            else
                row_of_shorts(rows, out, width);
        }
}

static PyObject *halve(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *source;
    Py_buffer block, out;
    if (!PyArg_ParseTuple(arguments, "Ow*", &source, &out)) return NULL;
    if (PyObject_GetBuffer(source, &block, PyBUF_STRIDED_RO)) {
        PyBuffer_Release(&out);
        return NULL;
    }
    int fits = block.ndim == 3 && (block.itemsize == 1 || block.itemsize == 2) && block.strides[2] == block.itemsize;
    for (int axis = 0; fits && axis < 3; axis++) fits = block.shape[axis] % 2 == 0;
    fits = fits && out.len == block.len / 8;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS;
        halve_all(&block, out.buf);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&block), PyBuffer_Release(&out);
    if (fits) return Py_NewRef(Py_None);
    PyErr_SetString(PyExc_ValueError, "no block of even sides with its voxels side by side, or no room for its eighth");
    return NULL;
}

static int is_same(const Py_buffer *one, const Py_buffer *other) {
    size_t row = (size_t)(one->shape[2] * one->itemsize);
    for (Py_ssize_t z = 0; z < one->shape[0]; z++)
        for (Py_ssize_t y = 0; y < one->shape[1]; y++)
            if (memcmp((const uint8_t *)one->buf + z * one->strides[0] + y * one->strides[1],
                       (const uint8_t *)other->buf + z * other->strides[0] + y * other->strides[1], row))
                return 0;
    return 1;
}

static PyObject *same(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *first, *second, *found = NULL;
    Py_buffer one, other;
    if (!PyArg_ParseTuple(arguments, "OO", &first, &second)) return NULL;
    if (PyObject_GetBuffer(first, &one, PyBUF_STRIDED_RO)) return NULL;
    if (PyObject_GetBuffer(second, &other, PyBUF_STRIDED_RO)) {
        PyBuffer_Release(&one);
        return NULL;
    }
    int fits = one.ndim == 3 && other.ndim == 3 && one.itemsize == other.itemsize && one.strides[2] == one.itemsize &&
               other.strides[2] == other.itemsize;
    for (int axis = 0; fits && axis < 3; axis++) fits = one.shape[axis] == other.shape[axis];
    if (fits) {
        int equal;
        Py_BEGIN_ALLOW_THREADS;
        equal = is_same(&one, &other);
        Py_END_ALLOW_THREADS;
        found = PyBool_FromLong(equal);
    } else {
        PyErr_SetString(PyExc_ValueError, "no two blocks of one shape with their voxels side by side");
    }
    PyBuffer_Release(&one), PyBuffer_Release(&other);
    return found;
}

static PyMethodDef methods[] = {
    {"halve", halve, METH_VARARGS, "halve(block, out): the means of the windows of 2 x 2 x 2 voxels."},
    {"same", same, METH_VARARGS, "same(one, other): whether all bytes of two blocks are the same."},
    {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {{0, NULL}};
static struct PyModuleDef definition = {.m_base = PyModuleDef_HEAD_INIT,
                                        .m_name = "_mean",
                                        .m_doc = "Means of windows of voxels, and whether two blocks are the same.",
                                        .m_size = 0,
                                        .m_methods = methods,
                                        .m_slots = slots};

PyMODINIT_FUNC PyInit__mean(void) { return PyModuleDef_Init(&definition); }
