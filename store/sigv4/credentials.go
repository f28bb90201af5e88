package sigv4

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Environment is where programs of Amazon's find what they sign with ("Configuration and
// credential file settings" in the AWS CLI User Guide).
type Environment struct {
	// Lookup finds environment variables.
	Lookup func(name string) (string, bool)
	// Home is the user's directory, "" for none.
	Home string
}

// maxFile is the longest file of settings that is read, in bytes.
const maxFile = 1 << 20

func (e Environment) get(name string) string {
	value, _ := e.Lookup(name)
	return value
}

// profileName is the profile that is meant; named goes before what the environment says.
func (e Environment) profileName(named string) string {
	return cmp.Or(named, e.get("AWS_PROFILE"), "default")
}

// Credentials finds credentials. They are those of a profile if one is named, else those in
// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, else those of the profile
// that AWS_PROFILE names, or of that called default. Without any, they are zero; that a
// profile which was asked for has none is an error.
func (e Environment) Credentials(profile string) (Credentials, error) {
	c := Credentials{e.get("AWS_ACCESS_KEY_ID"), e.get("AWS_SECRET_ACCESS_KEY"), e.get("AWS_SESSION_TOKEN")}
	if profile == "" && c.AccessKey != "" && c.SecretKey != "" {
		return c, nil
	}
	name := e.profileName(profile)
	for _, file := range []string{e.file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), e.file("AWS_CONFIG_FILE", "config")} {
		s, err := section(file, name)
		if err != nil {
			return Credentials{}, err
		}
		if s["aws_access_key_id"] != "" && s["aws_secret_access_key"] != "" {
			return Credentials{s["aws_access_key_id"], s["aws_secret_access_key"], s["aws_session_token"]}, nil
		}
	}
	if profile != "" || e.get("AWS_PROFILE") != "" {
		return Credentials{}, fmt.Errorf("find AWS credentials: the profile '%s' has no aws_access_key_id and aws_secret_access_key in '%s'",
			name, e.file("AWS_SHARED_CREDENTIALS_FILE", "credentials"))
	}
	return Credentials{}, nil
}

// Region finds out which region is meant: AWS_REGION, AWS_DEFAULT_REGION, that of the
// profile, or us-east-1.
func (e Environment) Region(profile string) (string, error) {
	if r := cmp.Or(e.get("AWS_REGION"), e.get("AWS_DEFAULT_REGION")); r != "" && profile == "" {
		return r, nil
	}
	s, err := section(e.file("AWS_CONFIG_FILE", "config"), e.profileName(profile))
	return cmp.Or(s["region"], "us-east-1"), err
}

// file is a file of settings: what a variable says, or one in ~/.aws.
func (e Environment) file(variable, name string) string {
	if file := e.get(variable); file != "" {
		return file
	}
	if e.Home == "" {
		return ""
	}
	return filepath.Join(e.Home, ".aws", name)
}

// section reads a profile's section of a file, which need not be there.
func section(file, profile string) (map[string]string, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find AWS credentials: %w", err)
	}
	defer f.Close()
	s, err := parseSection(io.LimitReader(f, maxFile), profile)
	if err != nil {
		return nil, fmt.Errorf("read '%s': %w", file, err)
	}
	return s, nil
}

// parseSection reads a section: "[NAME]" or "[profile NAME]", followed by "name = value".
// Settings of settings, which are indented, are passed over.
func parseSection(r io.Reader, profile string) (map[string]string, error) {
	values := make(map[string]string)
	inside := false
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		indented := strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			name := strings.TrimSpace(strings.TrimSuffix(line[1:], "]"))
			inside = name == profile || len(strings.Fields(name)) == 2 && strings.Fields(name)[0] == "profile" && strings.Fields(name)[1] == profile
		case inside && !indented:
			name, value, _ := strings.Cut(line, "=")
			values[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
		}
	}
	return values, lines.Err()
}
