/*
 * Lets User Mode Linux 6.1 run on processors whose extended state is larger than it knows (AMX).
 *
 * It sets the registers of its processes from a buffer that ends after AVX-512 and PKRU. A host kernel takes only the
 * whole area of its processor and answers EFAULT, and the machine panics before its init begins. The area is in the
 * standard format, so the machine's part is its beginning: here the rest is read first and written back unchanged.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define XSTATE 0x202 /* NT_X86_XSTATE of <elf.h> */

typedef long (*ptrace_function)(enum __ptrace_request, ...);

static _Alignas(64) char whole[1 << 16];

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_function original;
	va_list arguments;

	va_start(arguments, request);
	int process = va_arg(arguments, int);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);
	if (original == NULL)
		original = (ptrace_function)dlsym(RTLD_NEXT, "ptrace");
	if (request == PTRACE_SETREGSET && (long)address == XSTATE) {
		const struct iovec *given = data;
		struct iovec all = {whole, sizeof whole};

		if (original(PTRACE_GETREGSET, process, address, &all) == 0 && all.iov_len > given->iov_len) {
			memcpy(whole, given->iov_base, given->iov_len);
			return original(request, process, address, &all);
		}
	}
	return original(request, process, address, data);
}
