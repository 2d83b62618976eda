// SPDX-License-Identifier: Apache-2.0

package bpf

// Generating again with the same clang gives the same bytes; what is committed is what runs. Headers come from
// the distribution (linux-libc-dev, libbpf-dev).
//go:generate go run ./reasongen include/reasons.h
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -no-global-types -cflags "-O2 -g -Wall -Wextra -Werror -std=gnu17 -mcpu=v3 -I include -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" sockets programs/sockets.c
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -no-global-types -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-function -std=gnu17 -mcpu=v3 -I include -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" iterators programs/iterators.c
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -no-global-types -cflags "-O2 -g -Wall -Wextra -Werror -std=gnu17 -mcpu=v3 -I include -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" pods programs/pods.c
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -no-global-types -cflags "-O2 -g -Wall -Wextra -Werror -std=gnu17 -mcpu=v3 -I include -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" uplinks programs/uplinks.c
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -no-global-types -cflags "-O2 -g -Wall -Wextra -Werror -std=gnu17 -mcpu=v3 -I include -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" tunnel programs/tunnel.c
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -no-global-types -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-function -std=gnu17 -mcpu=v3 -I include -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" wire programs/wire.c
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -no-global-types -output-suffix _test -cflags "-O2 -g -Wall -Wextra -Werror -std=gnu17 -mcpu=v3 -I include -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" floor programs/floor.c
