package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// manifests are the rows about what is in deploy/kubernetes, and about compose.yaml.
func (s *suite) manifests() []row {
	var rows []row
	for _, name := range []string{"kiln.yaml", "kiln-user-namespace.yaml"} {
		rows = append(rows, row{"kubernetes", name, func(ctx context.Context) (string, error) { return s.manifest(ctx, "deploy/kubernetes/"+name) }})
	}
	return append(rows, row{"compose", "compose.yaml", s.compose})
}

// schema checks files, and gives what is in them as JSON, a document a line.
func (s *suite) schema(ctx context.Context, words ...string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", "-C", "internal/container/schema", "."}, words...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return slices.Collect(strings.Lines(string(out))), err
}

// securityContext is what of one can be given to docker run.
type securityContext struct {
	Privileged               bool
	ReadOnlyRootFilesystem   bool
	AllowPrivilegeEscalation *bool
	ProcMount                string
	RunAsUser                *int64
	Capabilities             struct{ Add, Drop []string }
	SeccompProfile           struct{ Type string }
	AppArmorProfile          struct{ Type string }
}

// flags are those of docker run for the same.
func (c *securityContext) flags() (flags []string) {
	security := func(on bool, option string) {
		if on {
			flags = append(flags, "--security-opt", option)
		}
	}
	security(c.SeccompProfile.Type == "Unconfined", "seccomp=unconfined")
	security(c.AppArmorProfile.Type == "Unconfined", "apparmor=unconfined")
	security(c.ProcMount == "Unmasked", "systempaths=unconfined")
	security(c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation, "no-new-privileges")
	if c.ReadOnlyRootFilesystem {
		flags = append(flags, "--read-only")
	}
	for _, name := range c.Capabilities.Drop {
		flags = append(flags, "--cap-drop", name)
	}
	for _, name := range c.Capabilities.Add {
		flags = append(flags, "--cap-add", name)
	}
	return flags
}

// manifest checks a file against the API's types and what its server demands beyond them,
// and builds with the security context that stands in it.
func (s *suite) manifest(ctx context.Context, name string) (string, error) {
	documents, err := s.schema(ctx, "../../../"+name)
	if err != nil {
		return "", err
	}
	for _, text := range documents {
		var set struct {
			Kind string
			Spec struct {
				Template struct {
					Spec struct {
						HostUsers                     *bool
						TerminationGracePeriodSeconds int
						Containers                    []struct {
							SecurityContext          securityContext
							LivenessProbe            *struct{}
							ReadinessProbe           *struct{}
							TerminationMessagePath   string
							VolumeMounts             []struct{ MountPath string }
							TerminationMessagePolicy string
						}
					}
				}
			}
		}
		if err := json.Unmarshal([]byte(text), &set); err != nil {
			return "", err
		}
		if set.Kind != "StatefulSet" {
			continue
		}
		pod := set.Spec.Template.Spec
		if len(pod.Containers) != 1 {
			return "", fmt.Errorf("%d containers", len(pod.Containers))
		}
		c := pod.Containers[0]
		security := c.SecurityContext
		own := pod.HostUsers != nil && !*pod.HostUsers
		switch {
		case security.Privileged:
			return "", errors.New("it is privileged")
		case security.ProcMount == "Unmasked" && !own:
			return "", errors.New("procMount Unmasked is refused without hostUsers: false")
		case slices.Contains(security.Capabilities.Add, "SYS_ADMIN") && security.AllowPrivilegeEscalation != nil && !*security.AllowPrivilegeEscalation:
			return "", errors.New("allowPrivilegeEscalation: false is refused with SYS_ADMIN")
		case own && slices.Contains(security.Capabilities.Add, "SYS_ADMIN"):
			return "", errors.New("it has SYS_ADMIN and a user namespace")
		case c.LivenessProbe == nil || c.ReadinessProbe == nil || c.TerminationMessagePath != "/dev/termination-log":
			return "", errors.New("probes or the termination message are missing")
		}
		return s.builds(ctx, imageRoot, security.flags()...)
	}
	return "", errors.New("there is no StatefulSet in it")
}

// compose checks compose.yaml, and runs its services: what docker compose does, as far as
// they ask for it.
func (s *suite) compose(ctx context.Context) (string, error) {
	documents, err := s.schema(ctx, "-compose", "../../../compose.yaml")
	if err != nil {
		return "", err
	}
	type service struct {
		Command, Entrypoint []string
		SecurityOpt         []string `json:"security_opt"`
		CapAdd              []string `json:"cap_add"`
		CapDrop             []string `json:"cap_drop"`
		Environment         map[string]string
		Volumes             []struct{ Type, Source, Target string }
	}
	var project struct{ Services map[string]service }
	if len(documents) != 1 {
		return "", fmt.Errorf("%d documents", len(documents))
	}
	if err := json.Unmarshal([]byte(documents[0]), &project); err != nil {
		return "", err
	}
	volumes := make(map[string]string)
	args := func(c service) (flags []string, err error) {
		for _, option := range c.SecurityOpt {
			flags = append(flags, "--security-opt", option)
		}
		for _, name := range c.CapDrop {
			flags = append(flags, "--cap-drop", name)
		}
		for _, name := range c.CapAdd {
			flags = append(flags, "--cap-add", name)
		}
		for name, value := range c.Environment {
			flags = append(flags, "-e", name+"="+value)
		}
		for _, v := range c.Volumes {
			if volumes[v.Source] == "" {
				if volumes[v.Source], err = s.volume(ctx); err != nil {
					return nil, err
				}
			}
			flags = append(flags, "-v", volumes[v.Source]+":"+v.Target)
		}
		return flags, nil
	}
	for _, name := range []string{"a", "b"} {
		c, container := project.Services[name], s.name()
		flags, err := args(c)
		if err != nil {
			return "", err
		}
		defer (&server{suite: s, name: container}).remove()
		if out, err := s.engine.docker(ctx, slices.Concat([]string{"run", "-d", "--name", container}, s.engine.network, flags, []string{imageRoot}, c.Command)...); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		if err := s.healthy(ctx, container, "unix:///run/kiln/"+name+".socket"); err != nil {
			return "", err
		}
	}
	c := project.Services["scheduler"]
	flags, err := args(c)
	if err != nil {
		return "", err
	}
	if len(c.Entrypoint) == 0 {
		return "", errors.New("the scheduler has no entrypoint")
	}
	for i := range c.Command {
		c.Command[i] = strings.ReplaceAll(c.Command[i], "$$", "$") // as it is written for compose
	}
	out, code, err := s.engine.run(ctx, slices.Concat(flags, []string{"--entrypoint", c.Entrypoint[0], imageScheduler}, c.Entrypoint[1:], c.Command)...)
	if err != nil || code != 0 || strings.Count(out, "✓") != 6 {
		return "", unexpected(err, "scheduler: exit code %d: %s", code, out)
	}
	if !strings.Contains(out, "a.socket") || !strings.Contains(out, "b.socket") {
		return "", fmt.Errorf("not both executors were used: %s", out)
	}
	return "6 derivations by two executors", nil
}
