/* The functions of MD5's rounds as one instruction each: the third operand of vpternlogd is the table of the function.
 *
 * Set before: TABLE(b, c, d, table), that instruction for vectors of some width.
 */
#include "md5_rounds.h"

#undef CHOOSE
#undef CHOOSE_BY_LAST
#undef PARITY
#undef INVERSE
#define CHOOSE(b, c, d) TABLE(b, c, d, 0xCA)
#define CHOOSE_BY_LAST(b, c, d) TABLE(b, c, d, 0xE4)
#define PARITY(b, c, d) TABLE(b, c, d, 0x96)
#define INVERSE(b, c, d) TABLE(b, c, d, 0x39)
