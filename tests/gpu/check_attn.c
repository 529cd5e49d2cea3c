#include "tests/gpu/gpu.h"
void check_attn(void){}
void check_sample(void){}
