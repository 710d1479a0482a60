/* libFuzzer inside an interpreter: its inputs go to a Python function, coverage comes from the module beside this.
 *
 * Built into the same library as the module under test, under the name _fuzz: run(arguments, function) gives libFuzzer
 * the function and never returns. An exception of the function is a finding, like a report of a sanitizer.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*one)(const uint8_t *, size_t));

#ifdef FAKE_FILES
void fake_begin(const uint8_t *data, size_t size);
int fake_open_count(void);
#endif

static PyObject *function;

static int run_one(const uint8_t *data, size_t size) {
    PyObject *found = PyObject_CallFunction(function, "y#", (const char *)data, (Py_ssize_t)size);
    if (!found) {
        PyErr_Print();
        __builtin_trap();
    }
    Py_DECREF(found);
    return 0;
}

static PyObject *run(PyObject *self, PyObject *arguments) {
    (void)self;
    PyObject *list;
    char *argv[32] = {0}, **start = argv;
    int argc = 0;
    if (!PyArg_ParseTuple(arguments, "OO", &list, &function)) return NULL;
    for (Py_ssize_t count = PySequence_Size(list); argc < count && argc < 31; argc++) {
        PyObject *text = PySequence_GetItem(list, argc);
        argv[argc] = text ? PyBytes_AsString(text) : NULL; /* the list holds it, and nothing returns from here */
        if (!argv[argc]) return NULL;
    }
    return PyLong_FromLong(LLVMFuzzerRunDriver(&argc, &start, run_one));
}

#ifdef FAKE_FILES
static PyObject *begin(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer data;
    if (!PyArg_ParseTuple(arguments, "y*", &data)) return NULL;
    fake_begin(data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    Py_RETURN_NONE;
}

static PyObject *left(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    return PyLong_FromLong(fake_open_count());
}
#endif

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "run([b'program', b'-option=value'], function)"},
#ifdef FAKE_FILES
    {"begin", begin, METH_VARARGS, "begin(data): the file system that these bytes stand for."},
    {"left", left, METH_NOARGS, "How many of its descriptors are open."},
#endif
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_fuzz", "libFuzzer.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__fuzz(void) { return PyModule_Create(&definition); }
