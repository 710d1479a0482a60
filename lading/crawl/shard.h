/* What ranks send one another; see shard.c. */
#ifndef LADING_CRAWL_SHARD_H
#define LADING_CRAWL_SHARD_H
#include "core.h"

uint8_t *make_shard(const Crawl *crawl, const Graft *graft, size_t *size);
int add_shard(Crawl *crawl, uint32_t rank, const uint8_t *data, size_t size);
int join_shards(Crawl *crawl);

#endif
