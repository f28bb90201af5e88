// Command schema checks manifests against the types of Kubernetes' API, and a compose file
// against those of Docker Compose: an unknown field, a wrong type or a value of the wrong
// form is an error. What it has read it prints as JSON, a document a line, for programs that
// read no YAML.
//
//	schema [-compose] FILE…
//
// It is a module of its own: these types come with much that has no place among what kiln
// is made of, and only the test of containers needs them.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func main() {
	compose := flag.Bool("compose", false, "the files are compose files")
	flag.Parse()
	check := manifests
	if *compose {
		check = composition
	}
	for _, name := range flag.Args() {
		if err := check(os.Stdout, name); err != nil {
			fmt.Fprintf(os.Stderr, "schema: %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}

// kinds are the objects that manifests may have.
var kinds = map[string]func() any{
	"apps/v1 StatefulSet": func() any { return new(appsv1.StatefulSet) },
	"v1 Service":          func() any { return new(corev1.Service) },
	"v1 ConfigMap":        func() any { return new(corev1.ConfigMap) },
}

// manifests checks the objects of a file.
func manifests(w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	documents := yaml.NewYAMLReader(bufio.NewReader(f))
	for n := 0; ; n++ {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return errors.New("there is nothing in it")
			}
			return nil
		}
		if err != nil {
			return err
		}
		var kind struct{ APIVersion, Kind string }
		if err := strict.Unmarshal(text, &kind); err != nil {
			return err
		}
		make := kinds[kind.APIVersion+" "+kind.Kind]
		if make == nil {
			return fmt.Errorf("document %d is a %s %s, which is not among the kinds that are checked", n+1, kind.APIVersion, kind.Kind)
		}
		object := make()
		if err := strict.UnmarshalStrict(bytes.TrimSpace(text), object); err != nil {
			return fmt.Errorf("document %d: %w", n+1, err)
		}
		if err := json.NewEncoder(w).Encode(object); err != nil {
			return err
		}
	}
}

// composition checks a compose file.
func composition(w io.Writer, name string) error {
	options, err := cli.NewProjectOptions([]string{name}, cli.WithOsEnv)
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(project)
}
