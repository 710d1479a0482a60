/* Directories as packed children, and their sums; see pack.c. */
#ifndef LADING_CRAWL_PACK_H
#define LADING_CRAWL_PACK_H
#include "core.h"

void *allocate(Crawl *crawl, Worker *worker, size_t size);
Dir *make_dir(Crawl *crawl, Worker *worker, Dir *parent, const char *name, size_t length);
int pack_job(Crawl *crawl, Worker *worker, Job *job);
int repack(Crawl *crawl, Dir *dir);
size_t item_size(const Crawl *crawl, int type, uint64_t size, bool linked, size_t length);
uint8_t *put_item(const Crawl *crawl, uint8_t *at, const Item *item);
const uint8_t *read_item(const Crawl *crawl, const uint8_t *at, Item *item);
/* 0, -1 without memory, TOO_LARGE when 64 bits do not hold the sum of the sizes. */
enum { TOO_LARGE = -2 };
int settle(Crawl *crawl, uint64_t counts[4]);

#endif
