package autostart

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// agentUnits says which units start what an OCF agent manages.
type agentUnits struct {
	units []string // names without .service; a name that ends in @ or - is a beginning
	// own are the parameters that make the resource an instance of its own, with
	// the values, or directories, that are the distributions' instance.
	own map[string][]string
}

// ofAgents are the agents of the resource-agents project that manage what
// distributions also start by a unit. An agent whose daemon serves several
// resources (docker, lvm, iscsi) is missing on purpose: its unit starts none.
var ofAgents = map[string]agentUnits{
	"heartbeat:apache": {[]string{"apache2", "httpd"}, map[string][]string{"configfile": {
		"/etc/apache2/apache2.conf", "/etc/apache2/httpd.conf", "/etc/httpd/conf/httpd.conf",
	}}},
	"heartbeat:asterisk":   {[]string{"asterisk"}, map[string][]string{"config": {"/etc/asterisk/asterisk.conf"}}},
	"heartbeat:conntrackd": {[]string{"conntrackd"}, map[string][]string{"config": {"/etc/conntrackd/conntrackd.conf"}}},
	"heartbeat:dhcpd":      {[]string{"dhcpd", "isc-dhcp-server"}, map[string][]string{"config": {"/etc/dhcpd.conf", "/etc/dhcp/dhcpd.conf"}}},
	"heartbeat:dovecot":    {[]string{"dovecot"}, map[string][]string{"config_file": {"/etc/dovecot/dovecot.conf"}}},
	"heartbeat:galera":     {[]string{"mariadb", "mysql", "mysqld"}, mysqlOwn},
	"heartbeat:kamailio":   {[]string{"kamailio"}, map[string][]string{"conffile": {"/etc/kamailio/kamailio.cfg"}}},
	"heartbeat:mariadb":    {[]string{"mariadb", "mysql", "mysqld"}, mysqlOwn},
	"heartbeat:mysql":      {[]string{"mariadb", "mysql", "mysqld"}, mysqlOwn},
	"heartbeat:nagios":     {[]string{"nagios", "nagios4"}, map[string][]string{"config": {"/etc/nagios/nagios.cfg"}}},
	"heartbeat:named": {[]string{"named", "bind9", "named-chroot"}, map[string][]string{
		"named_config": {"/etc/named.conf", "/etc/bind/named.conf"}, "named_rootdir": {"/var/named/chroot"},
	}},
	"heartbeat:nfsserver":        {[]string{"nfs-server", "nfs-kernel-server", "nfs"}, nil}, // the kernel has one
	"heartbeat:nginx":            {[]string{"nginx"}, map[string][]string{"configfile": {"/etc/nginx/nginx.conf"}}},
	"heartbeat:pgsql":            {[]string{"postgresql", "postgresql@", "postgresql-"}, map[string][]string{"pgdata": {"/var/lib/pgsql/", "/var/lib/postgresql/"}}},
	"heartbeat:postfix":          {[]string{"postfix", "postfix@-"}, map[string][]string{"config_dir": {"/etc/postfix"}}},
	"heartbeat:proftpd":          {[]string{"proftpd"}, map[string][]string{"conffile": {"/etc/proftpd.conf", "/etc/proftpd/proftpd.conf"}}},
	"heartbeat:rabbitmq-cluster": {[]string{"rabbitmq-server"}, nil},
	"heartbeat:redis":            {[]string{"redis", "redis-server"}, map[string][]string{"config": {"/etc/redis.conf", "/etc/redis/redis.conf"}}},
	"heartbeat:rsyncd":           {[]string{"rsyncd", "rsync"}, map[string][]string{"conffile": {"/etc/rsyncd.conf"}}},
	"heartbeat:slapd":            {[]string{"slapd"}, map[string][]string{"config": {"/etc/ldap/slapd.d", "/etc/ldap/slapd.conf", "/etc/openldap/slapd.d", "/etc/openldap/slapd.conf"}}},
	"heartbeat:Squid":            {[]string{"squid"}, map[string][]string{"squid_conf": {"/etc/squid/squid.conf"}}},
	"heartbeat:vsftpd":           {[]string{"vsftpd"}, map[string][]string{"conffile": {"/etc/vsftpd.conf", "/etc/vsftpd/vsftpd.conf"}}},
	"heartbeat:zabbixserver":     {[]string{"zabbix-server"}, map[string][]string{"config": {"/etc/zabbix/zabbix_server.conf"}}},
}

var mysqlOwn = map[string][]string{"datadir": {"/var/lib/mysql"}, "config": {"/etc/my.cnf", "/etc/mysql/my.cnf", "/etc/mysql/mariadb.cnf"}}

// findAgentUnits looks for enabled units of what an OCF agent manages. A
// resource with a configuration or data of its own is another instance, which
// the unit of the distribution does not start.
func (m *Machine) findAgentUnits(agent string, params map[string]string) []Finding {
	of, known := ofAgents[agent]
	if !known {
		return nil
	}
	for param, standard := range of.own {
		if value := params[param]; value != "" && !slices.ContainsFunc(standard, func(s string) bool { return within(value, s) }) {
			return nil
		}
	}
	var found []Finding
	for _, u := range m.units {
		name := strings.TrimSuffix(u.name, ".service")
		if slices.ContainsFunc(of.units, func(want string) bool {
			beginning := strings.HasSuffix(want, "@") || strings.HasSuffix(want, "-")
			return name == want || beginning && strings.HasPrefix(name, want)
		}) {
			found = append(found, startedBy(u))
		}
	}
	return found
}

// within reports whether a path is the standard one, or below it where that
// ends in a slash.
func within(value, standard string) bool {
	value = path.Clean(value)
	return value == path.Clean(standard) || strings.HasSuffix(standard, "/") && strings.HasPrefix(value, standard)
}

func startedBy(u unit) Finding {
	return Finding{Source: u.source, What: fmt.Sprintf("starts %s at boot", u.name), Fix: u.fix}
}
