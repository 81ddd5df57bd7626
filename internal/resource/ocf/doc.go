// Package ocf is the resource agent that runs OCF resource agents as they are
// (OCF Resource Agent API 1.1): agent = "ocf:<provider>:<type>". The executor
// calls it; it keeps the promise that "stopped" is the agent's word twice: its
// stop ended with 0, and a probe after it with 7.
//
// The script is <root>/resource.d/<provider>/<type>; parameters go to it as
// OCF_RESKEY_<name>. Check asks the agent's meta-data for the parameters that
// exist and that are required. Actions run in a process group of their own,
// which is killed when ctx ends; what an agent put into the background before
// stays, it is the service. As under Pacemaker, a daemon that keeps the agent's
// output open finds it closed when the action has ended.
//
// Exit codes:
//
//	code           start, stop      monitor            class
//	0 success      done             active
//	1 generic      failed           failed             soft
//	2 args         failed           unknown            hard
//	3 unimplemented failed          unknown            hard
//	4 permission   failed           unknown            hard
//	5 installed    failed           see below          hard
//	6 configured   failed           unknown            fatal
//	7 not running  failed           inactive           soft
//	8 promoted     failed           active             soft
//	9 failed prom. failed           failed             soft
//	190, 191       done             active, logged
//	other          failed           unknown            soft
//
// What Start was called for is marked in the run directory until Stop is
// verified. Without a mark a monitor is a probe (interval 0), and "not
// installed" (5, or no such script) means inactive: what is not installed was
// not started by it. With a mark it means unknown.
//
// Not here: roles (promote, demote), clones, notifications, migration, and the
// tools crm_attribute, crm_master, crm_node and attrd_updater that agents with
// roles expect.
package ocf
