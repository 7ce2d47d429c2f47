/* What ST's tools read on the host; it is never written to the target.  UM2237, "Loader creation". */
#include <stdint.h>

enum { SPI_FLASH = 7, NOR_FLASH = 3 };

struct storage_info {
    char name[100]; /* the file's base name: STM32CubeProgrammer insists since 2.18 */
    uint16_t type;
    uint32_t start;
    uint32_t size;
    uint32_t page_size;
    uint8_t erased;
    struct {
        uint32_t count;
        uint32_t size;
    } sectors[10];
};

_Static_assert(sizeof(struct storage_info) == 200, "STM32CubeProgrammer checks it since 2.12");

/* NOR_FLASH: to be read where it is mapped, without a call. */
__attribute__((section(".storage_info"), used)) const struct storage_info StorageInfo = {
    .name = "qspi",
    .type = NOR_FLASH,
    .start = 0x90000000u,
    .size = 32u * 1024u * 1024u,
    .page_size = 256,
    .erased = 0xFF,
    .sectors = {{512, 0x10000u}},
};
