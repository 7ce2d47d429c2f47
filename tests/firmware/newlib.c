/* An ordinary C program on newlib: stdio by semihosting (librdimon), a heap, an exit status. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern void initialise_monitor_handles(void);

void _init(void) {} /* crti.o has them, which comes with newlib's own start-up code */
void _fini(void) {}

int main(void)
{
    char line[40] = "";
    initialise_monitor_handles();
    printf("pi is about %.3f\n", 3.14159);
    fprintf(stderr, "this is an error\n");
    char *heap = malloc(10000);
    memset(heap, 'x', 10000);
    FILE *file = fopen("made.txt", "w");
    if (file == NULL) {
        printf("no file: %s\n", strerror(errno));
        exit(7);
    }
    fwrite(heap, 1, 10000, file);
    fprintf(file, "\n%d lines\n", 2);
    fclose(file);
    file = fopen("made.txt", "r");
    fseek(file, 10001, SEEK_SET);
    fgets(line, sizeof line, file);
    printf("read: %s", line);
    fseek(file, 0, SEEK_END);
    printf("size: %ld\n", ftell(file));
    fclose(file);
    fclose(fopen("gone.txt", "w"));
    printf("remove: %d\n", remove("gone.txt"));
    printf("tty: %d %d\n", isatty(1), isatty(0));
    printf("time: %d\n", time(NULL) > 1700000000);
    printf("system: %d\n", system("touch harm") == 0);
    printf("name? ");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin))
        printf("hello, %s", line);
    exit(42);
}
