package conf

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Options are what a command line has to say. The zero value says nothing.
type Options struct {
	Overrides []Override // in the order in which they were given
}

// An Override is a setting given on the command line.
type Override struct {
	Name, Value string
	Flag        string // as the user wrote it, "--max-jobs"; empty means "--option"
}

// Load gathers the settings of a process. Later sources win:
//
//   - the defaults of the machine;
//   - variables that stand for one setting: NIX_REMOTE, NIX_REMOTE_SYSTEMS,
//     NIX_IGNORE_SYMLINK_STORE, NIX_SSL_CERT_FILE or SSL_CERT_FILE;
//   - nix.conf in NIX_CONF_DIR (/etc/nix);
//   - the user's files, of which the first named wins: those that
//     NIX_USER_CONF_FILES lists, or else nix/nix.conf in XDG_CONFIG_HOME and in
//     each of XDG_CONFIG_DIRS;
//   - the text in NIX_CONFIG;
//   - the command line.
//
// Within each, experimental features count before everything else. Files that
// don't exist are no error. An error names the place and, for a bad value, the
// setting; the warnings are there even then. The order is that of the Nix manual
// ("nix.conf", "Configuration file").
func Load(env Environment, opts Options) (*Settings, []Warning, error) {
	l := &loader{env: env, settings: New(env), unknown: map[string]Source{}}
	err := l.load(opts)

	// One warning for a name, however often it stands there.
	for name, source := range l.unknown {
		l.warnings = append(l.warnings, Warning{source, fmt.Sprintf("%v '%s'", ErrUnknown, name)})
	}
	// The map gave them in any order.
	slices.SortStableFunc(l.warnings[len(l.warnings)-len(l.unknown):], func(a, b Warning) int {
		return strings.Compare(a.Text, b.Text)
	})
	if err != nil {
		return nil, l.warnings, fmt.Errorf("load settings: %w", err)
	}
	return l.settings, l.warnings, nil
}

type loader struct {
	env      Environment
	settings *Settings
	warnings []Warning
	unknown  map[string]Source
}

func (l *loader) load(opts Options) error {
	dirs, err := l.env.Dirs()
	if err != nil {
		return err
	}
	if err := l.apply(fromVariables(l.env)); err != nil {
		return err
	}
	if err := l.file(path.Join(dirs.Conf, "nix.conf"), FromSystem); err != nil {
		return err
	}
	for _, name := range slices.Backward(userFiles(l.env)) {
		if err := l.file(name, FromUser); err != nil {
			return err
		}
	}
	if text, ok := l.env.lookup("NIX_CONFIG"); ok {
		if err := l.text("NIX_CONFIG", text, FromNixConfig); err != nil {
			return err
		}
	}
	var flags []assignment
	for _, o := range opts.Overrides {
		if o.Flag == "" {
			o.Flag = "--option"
		}
		flags = append(flags, assignment{o.Name, o.Value, Source{Kind: FromCommandLine, Name: o.Flag}})
	}
	return l.apply(flags)
}

// file applies a file, if it is there. One that cannot be read is worth a
// warning: the defaults are the safe choice, but the user should know.
func (l *loader) file(name string, kind Kind) error {
	text, err := l.env.read(name, MaxFileSize)
	switch {
	case err == nil:
		return l.text(name, string(text), kind)
	case errors.Is(err, errTooLarge):
		return fmt.Errorf("read %q: %w", name, err)
	case !absent(err):
		l.warnings = append(l.warnings, Warning{Source{Kind: kind, Name: name}, fmt.Sprintf("cannot read %q, leaving it out: %v", name, err)})
	}
	return nil
}

func (l *loader) text(name, text string, kind Kind) error {
	if len(text) > MaxFileSize {
		return fmt.Errorf("read %q: %w of %d bytes", name, errTooLarge, MaxFileSize)
	}
	p := &parser{env: l.env, kind: kind}
	err := p.parse(name, text)
	l.warnings = append(l.warnings, p.warnings...)
	if err != nil {
		return err
	}
	return l.apply(p.found)
}

// apply sets what one source says.
func (l *loader) apply(all []assignment) error {
	for _, wanted := range []bool{true, false} {
		for _, a := range all {
			if isFeatures(a.name) != wanted {
				continue
			}
			if err := l.set(a); err != nil {
				return err
			}
		}
	}
	return nil
}

func isFeatures(name string) bool {
	return strings.TrimPrefix(name, "extra-") == "experimental-features"
}

func (l *loader) set(a assignment) error {
	warnings, err := l.settings.Set(a.name, a.value, a.source)
	l.warnings = append(l.warnings, warnings...)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrUnknown) {
		if _, there := l.unknown[a.name]; !there {
			l.unknown[a.name] = a.source
		}
		return nil
	}
	if i, _, _ := find(a.name); definitions[i].Status == Ignored {
		l.warnings = append(l.warnings, Warning{a.source, err.Error()})
		return nil
	}
	return fmt.Errorf("%v: %w", a.source, err)
}

// fromVariables reads the variables that stand for one setting each.
func fromVariables(env Environment) []assignment {
	var all []assignment
	give := func(setting, value, variable string) {
		all = append(all, assignment{setting, value, Source{Kind: FromEnvironment, Name: variable}})
	}
	if v, ok := env.nonEmpty("NIX_REMOTE"); ok {
		give("store", v, "NIX_REMOTE")
	}
	if v, ok := env.lookup("NIX_REMOTE_SYSTEMS"); ok {
		var lists []string
		for f := range strings.SplitSeq(v, ":") {
			if f != "" {
				lists = append(lists, "@"+f)
			}
		}
		give("builders", strings.Join(lists, "\n"), "NIX_REMOTE_SYSTEMS")
	}
	if v, _ := env.lookup("NIX_IGNORE_SYMLINK_STORE"); v == "1" {
		give("allow-symlinked-store", "true", "NIX_IGNORE_SYMLINK_STORE")
	}
	for _, variable := range []string{"NIX_SSL_CERT_FILE", "SSL_CERT_FILE"} {
		if v, ok := env.nonEmpty(variable); ok {
			if v = env.abs(v); v != "" {
				give("ssl-cert-file", v, variable)
			}
			break
		}
	}
	return all
}

// userFiles lists the user's configuration files; the first wins.
func userFiles(env Environment) []string {
	if list, ok := env.lookup("NIX_USER_CONF_FILES"); ok {
		return env.pathList(list)
	}
	var dirs []string
	if dir := env.userDir("NIX_CONFIG_HOME", "XDG_CONFIG_HOME", ".config"); dir != "" {
		dirs = append(dirs, dir)
	}
	list, ok := env.nonEmpty("XDG_CONFIG_DIRS")
	if !ok {
		list = "/etc/xdg"
	}
	for _, dir := range env.pathList(list) {
		dirs = append(dirs, path.Join(dir, "nix"))
	}
	for i := range dirs {
		dirs[i] = path.Join(dirs[i], "nix.conf")
	}
	return dirs
}
