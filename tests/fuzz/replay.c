/* SPDX-License-Identifier: Apache-2.0 */
/* A main() for fuzz targets without libFuzzer: runs each file of the given files and folders once. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

static unsigned n_inputs;

static void run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(1 << 20);
    size_t n = f && data ? fread(data, 1, 1 << 20, f) : 0;

    if (f) {
        fclose(f);
        uint8_t *exact = malloc(n ? n : 1); /* a read beyond the end is seen */

        memcpy(exact, data, n);
        LLVMFuzzerTestOneInput(exact, n);
        free(exact);
        n_inputs++;
    }
    free(data);
}

static void run_path(const char *path)
{
    struct stat st;
    DIR *d = stat(path, &st) || !S_ISDIR(st.st_mode) ? NULL : opendir(path);

    if (!d) {
        run_file(path);
        return;
    }
    for (struct dirent *e; (e = readdir(d));) {
        char name[4096];

        if (e->d_name[0] != '.') {
            snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
            run_file(name);
        }
    }
    closedir(d);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        run_path(argv[i]);
    }
    printf("%u inputs\n", n_inputs);
    return n_inputs ? 0 : 1;
}
