/* Global variables in all places the compiler and SEC() can put them. */
#include "bpf_api.h"

int counter;
int start = 42;
const volatile __u32 limit = 9;
static volatile const char message[] = "hello";
int custom SEC(".data.custom") = 5;
static volatile int hidden SEC(".data.hidden") = 6;
__u64 odd SEC("my_data") = 77;
int unused SEC("not_referenced") = 1;
extern int LINUX_KERNEL_VERSION __kconfig;
extern int CONFIG_SOMETHING __kconfig __weak;
extern const int maybe __ksym __weak;

SEC("socket")
int prog(struct __sk_buff *skb)
{
	counter += start + limit + message[2] + custom + hidden + odd;
	if (&maybe)
		counter++;
	if (LINUX_KERNEL_VERSION > 0x060b00)
		counter += CONFIG_SOMETHING;
	return counter;
}

char LICENSE[] SEC("license") = "GPL";
