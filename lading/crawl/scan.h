/* The threads that walk; see scan.c. */
#ifndef LADING_CRAWL_SCAN_H
#define LADING_CRAWL_SCAN_H
#include "core.h"

int start_workers(Crawl *crawl);
int push_queue(Crawl *crawl, Task task); /* lock held; -1 without memory, the task is not taken then */
void end_workers(Crawl *crawl); /* a walk that is not done yet is stopped */
void drop_parent(Crawl *crawl, Dir *dir); /* it will not be opened by way of its parent's descriptor */
int64_t clock_ns(void);

#endif
