# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
# Where everything lies, and how a long step is shown. Sourced by every script of dev/.
set -euo pipefail
umask 022
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

DEV=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
ROOT=$(dirname "$DEV")
CACHE=$(realpath -m "${TCP_PCAP_CACHE:-${HOME:-/root}/.cache/tcp_pcap}")
ORIG=$CACHE/orig/linux
BASE=$CACHE
if [ -n "${LINUX:-}" ]; then
	[ -f "$LINUX/Kbuild" ] || { printf '%s\n' "LINUX=$LINUX: no kernel source there" >&2; exit 1; }
	ORIG=$(realpath -m "$LINUX")
	BASE=$CACHE/linux-$(printf %s "$ORIG" | sha256sum | cut -c1-8)
	unset KERNEL
elif [ -n "${KERNEL:-}" ]; then
	[ -f "$DEV/kernel-$KERNEL.pin" ] || { printf '%s\n' "KERNEL=$KERNEL: no dev/kernel-$KERNEL.pin says where its source is" >&2; exit 1; }
	BASE=$CACHE/kernel-$KERNEL
	ORIG=$BASE/orig/linux
	export KERNEL
fi
TREE=$BASE/tree
BUILD_X86=$BASE/build/x86 VMLINUX=$BASE/build/x86/vmlinux BZIMAGE=$BASE/build/x86/arch/x86/boot/bzImage
BUILD_UM=$BASE/build/um UML=$BASE/build/um/linux
BUILD_OFF=$BASE/build/off UML_OFF=$BASE/build/off/linux
BUILD_SMP=$BASE/build/smp UML_SMP=$BASE/build/smp/linux
BUILD_BENCH=$BASE/build/bench BZIMAGE_BENCH=$BASE/build/bench/arch/x86/boot/bzImage
BUILD_KSELF=$BASE/build/kself BZIMAGE_KSELF=$BASE/build/kself/arch/x86/boot/bzImage
VENV=$CACHE/venv PY=$CACHE/venv/bin/python
CRASH_ROOT=$CACHE/crash
LOGS=$BASE/log
LLVM_BIN=/usr/lib/llvm-22/bin
export DEV ROOT CACHE ORIG BASE TREE BUILD_X86 VMLINUX BZIMAGE BUILD_UM UML BUILD_OFF UML_OFF
export BUILD_SMP UML_SMP BUILD_BENCH BZIMAGE_BENCH BUILD_KSELF BZIMAGE_KSELF VENV PY CRASH_ROOT LOGS LLVM_BIN
# Debian's tools, whatever else this machine has.
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
# A checkout that belongs to somebody else is read all the same.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
mkdir -p "$LOGS" "$CACHE/stamp" "$BASE"
[ "${V:-}" != 1 ] || set -x

KINDS='x86, um, smp, off, bench, benchoff, plain, kself, other-NAME'
# Source and build of the pristine kernel lie to one another as those of the patched one do: their objects have the same paths.
build_folder() { if [ "$1" = plain ]; then echo "$BASE/plain/build/plain"; else echo "$BASE/build/$1"; fi; }

say() { printf '%s\n' "== $*"; }
die() { printf '%s\n' "dev/$(basename "$0"): $*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# stamped NAME KEY: true if step NAME was completed with exactly this KEY; stamp NAME KEY: note that it was.
stamped() { [ "$(cat "$CACHE/stamp/$1" 2>/dev/null)" = "$2" ]; }
stamp() { printf '%s\n' "$2" >"$CACHE/stamp/$1.new" && mv "$CACHE/stamp/$1.new" "$CACHE/stamp/$1"; }

# only_one NAME: from here to the end of the script, one at a time.
only_one() {
	exec {only_one_fd}>"$BASE/$1.lock"
	flock -n "$only_one_fd" || { say "waiting for another $1 .."; flock "$only_one_fd"; }
}

# step TITLE LOG NEXT CMD..: run CMD with its output in $LOGS/LOG. Shows that it lives; a failure shows the end of the log, where
# the log is, and what to do NEXT. STEP_TOTAL, if set, is the number of steps of a kernel build expected if no earlier run told.
step() {
	local title=$1 log=$LOGS/$2 next=$3 start=$SECONDS shown=$SECONDS pid first total=${STEP_TOTAL:-} known=$CACHE/stamp/steps-$2
	shift 3
	[ -z "$total" ] || [ ! -s "$known" ] || total=$(<"$known")
	say "$title .."
	# A process group of its own: what interrupts us ends all of it.
	set -m
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	set +m
	# shellcheck disable=SC2064
	trap "kill -- -$pid 2>/dev/null; wait $pid; exit 130" INT TERM
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.3
		if [ $((SECONDS - shown)) -ge 15 ]; then
			shown=$SECONDS
			printf '   %s: %d s, %s\n' "$title" $((SECONDS - start)) "$(progress "$log" "$total")"
		fi
	done
	trap - INT TERM
	if wait "$pid"; then
		# What was interrupted and resumed has a short log, which tells nothing.
		[ -z "$total" ] || [ "$(steps "$log")" -lt $((total / 2)) ] || steps "$log" >"$known"
		say "$title: done in $((SECONDS - start)) s"
		return 0
	fi
	{
		printf '\nFAILED: %s\n' "$title"
		first=$(grep -nEi '(^|[^a-z_])(error|fatal|undefined)(:|\[| )' "$log" | grep -v '[*][*][*]' | head -n 1 | cut -d: -f1) || true
		[ -z "$first" ] || sed -n "$first,$((first + 14))p" "$log" | cut -c1-300
		printf '%s\n' '-- the last lines:'
		tail -n 8 "$log" | cut -c1-300
		printf '%s\n' "-- log:  $log" "-- next: $next"
	} >&2
	return 1
}

# steps LOG: the lines of a kernel build that name a step; the others are the compiler's.
steps() { grep -c '^  [A-Z]' "$1" || true; }

# progress LOG [TOTAL]: how far it is by the number of steps, or the last line.
progress() {
	local count
	if [ -n "${2:-}" ]; then
		count=$(steps "$1")
		if [ "$count" -lt "$2" ]; then
			printf '%d %% (%d of about %d)' $((count * 100 / $2)) "$count" "$2"
		else
			printf '99 %%, the last steps (%d done)' "$count"
		fi
	else
		{ grep "^  [A-Z]" "$1" || cat "$1"; } | tail -n 1 | tr '\r' '\n' | tail -n 1 | cut -c1-70
	fi
}
