package conformance

import "testing"

// recorded is of ptp with host-local, cut down to a few lines of each kind.
const recorded = `15105 execve("/opt/cni/bin/ptp", [""...], [""..., ""...]) = 0
15105 openat(AT_FDCWD</>, ""..., O_RDONLY) = 3</sys/kernel/mm/transparent_hugepage/hpage_pmd_size>
15105 read(3</sys/kernel/mm/transparent_hugepage/hpage_pmd_size>, ""..., 20) = 8
15105 futex(0x1c4605b66890, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>
15177 execve("/opt/cni/bin/host-local", [""...], [""..., ""...] <unfinished ...>
15111 <... gettid resumed>)             = 15111
15177 <... execve resumed>)             = 0
15178 execve("/nowhere/iptables", [""...], [""...]) = -1 ENOENT (No such file or directory)
15179 execve("/nowhere/iptables", [""...], [""...] <unfinished ...>
15179 <... execve resumed>)             = -1 ENOENT (No such file or directory)
15105 <... futex resumed>)              = 0
15105 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=15177, si_uid=0, si_status=0, si_utime=0, si_stime=0} ---
15105 sendto(5<NETLINK:[ROUTE:15105]>, [{nlmsg_len=52, nlmsg_type=RTM_GETLINK, nlmsg_flags=NLM_F_REQUEST|NLM_F_ACK, nlmsg_seq=2, nlmsg_pid=0}, {ifi_family=AF_UNSPEC}], 52, 0, {sa_family=AF_NETLINK, nl_pid=0, nl_groups=00000000}, 12) = 52
15105 recvfrom(5<NETLINK:[ROUTE:15105]>, [{nlmsg_len=36, nlmsg_type=NLMSG_ERROR, nlmsg_flags=0, nlmsg_seq=2, nlmsg_pid=15105}, {error=0, msg={nlmsg_len=52}}], 65536, 0, NULL, NULL) = 36
15112 sendto(11<NETLINK:[11308640]>, [{nlmsg_len=116, nlmsg_type=0x10 /* NLMSG_??? */, nlmsg_seq=5, nlmsg_pid=0}, ""...], 116, 0, {sa_family=AF_NETLINK}, 12 <unfinished ...>
15112 <... sendto resumed>)             = 116
15113 sendto(12<NETLINK:[11308641]>, ""..., 116, 0, {sa_family=AF_NETLINK}, 12) = 116
15249 sendmsg(3<NETLINK:[NETFILTER:15249]>, {msg_name={sa_family=AF_NETLINK}, msg_iov=[{iov_base=[[{nlmsg_len=28, nlmsg_type=NFNL_MSG_BATCH_BEGIN}, {nfgen_family=AF_UNSPEC}, ""...], [{nlmsg_len=20, nlmsg_type=NFNL_MSG_BATCH_END}, {nfgen_family=AF_UNSPEC}]], iov_len=48}], msg_iovlen=1}, 0) = 48
15105 write(1<pipe:[93]>, ""..., 402)   = 402
15105 sendto(7<UNIX-STREAM:[94]>, ""..., 9, 0, NULL, 0) = 9
15105 exit_group(0)                     = ?
15105 +++ exited with 0 +++
`

// TestWork: a call counts once, whether or not another interrupted it; a
// program when it is executed; a message when it is sent.
func TestWork(t *testing.T) {
	t.Parallel()
	if got, want := workOf(recorded), (work{programs: 2, netlink: 5, calls: 15}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := workOf("strace: exec: Permission denied\n"); got != (work{}) {
		t.Errorf("of what is no trace: %+v", got)
	}
	if got, want := (work{1, 2, 3}).plus(work{10, 20, 30}), (work{11, 22, 33}); got != want {
		t.Errorf("sum %+v, want %+v", got, want)
	}
}
