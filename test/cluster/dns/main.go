// Command dns is CoreDNS with the plugins that a cluster needs and no others,
// whose dependencies are most of it.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"       // listens on the node's address only
	_ "github.com/coredns/coredns/plugin/cache"      // as in kubeadm's configuration
	_ "github.com/coredns/coredns/plugin/errors"     // logs them
	_ "github.com/coredns/coredns/plugin/kubernetes" // knows Services
)

func main() {
	dnsserver.Directives = []string{"bind", "errors", "cache", "kubernetes"}
	coremain.Run()
}
