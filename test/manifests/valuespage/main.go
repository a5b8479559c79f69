// Command valuespage writes the page about the chart's values. `make values-page`
// runs it.
package main

import (
	"flag"
	"fmt"
	"os"

	manifests "github.com/samara-p2p/samara/test/manifests"
)

func main() {
	schema := flag.String("schema", "../../manifests/chart/values.schema.json", "the chart's schema")
	values := flag.String("values", "../../manifests/chart/values.yaml", "the chart's values")
	out := flag.String("out", "../../docs/kubernetes-values.md", "the page")
	flag.Parse()
	page, err := manifests.ValuesPage(*schema, *values)
	if err == nil {
		err = os.WriteFile(*out, page, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "valuespage:", err)
		os.Exit(1)
	}
}
