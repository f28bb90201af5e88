package sigv4

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The examples are those of Amazon's documentation, with the keys that it uses.
func TestSign(t *testing.T) {
	s3 := Credentials{AccessKey: "AKIAIOSFODNN7EXAMPLE", SecretKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	day := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name, url, byteRange, want string
	}{
		{"a part of an object", "https://examplebucket.s3.amazonaws.com/test.txt", "bytes=0-9", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		{"a list", "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J", "", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
		{"a query without a value", "https://examplebucket.s3.amazonaws.com/?lifecycle", "", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest(http.MethodGet, c.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.byteRange != "" {
				req.Header.Set("Range", c.byteRange)
			}
			s3.Sign(req, "us-east-1", "s3", EmptyPayload, day)
			if got := req.Header.Get("Authorization"); !strings.HasSuffix(got, "Signature="+c.want) {
				t.Errorf("%s\nwant the signature %s", got, c.want)
			}
		})
	}
}

func TestSignToken(t *testing.T) {
	req, _ := http.NewRequest(http.MethodGet, "http://localhost/b/a:b!c+d", nil)
	Credentials{AccessKey: "a", SecretKey: "s", Token: "t"}.Sign(req, "r", "s3", EmptyPayload, time.Now())
	if got := req.Header.Get("Authorization"); !strings.Contains(got, "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,") {
		t.Error(got)
	}
	if got := req.URL.String(); got != "http://localhost/b/a%3Ab%21c%2Bd" {
		t.Error(got)
	}
}

func TestEnvironment(t *testing.T) {
	home := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(home, ".aws"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, ".aws", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("credentials", "# mine\n[default]\naws_access_key_id = d\naws_secret_access_key=ds\n\n[other]\naws_access_key_id = o\naws_secret_access_key = os=\naws_session_token = ot\n")
	write("config", "[default]\nregion = eu-west-1\ns3 =\n  region = nowhere\n[profile other]\nregion = eu-west-2\n[profile empty]\nregion = eu-west-3\n")
	for _, c := range []struct {
		name    string
		env     map[string]string
		profile string
		want    Credentials
		region  string
		fails   string
	}{
		{name: "default", want: Credentials{"d", "ds", ""}, region: "eu-west-1"},
		{name: "named", profile: "other", want: Credentials{"o", "os=", "ot"}, region: "eu-west-2"},
		{name: "named by the environment", env: map[string]string{"AWS_PROFILE": "other"}, want: Credentials{"o", "os=", "ot"}, region: "eu-west-2"},
		{name: "environment", env: map[string]string{"AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "es", "AWS_REGION": "r"}, want: Credentials{"e", "es", ""}, region: "r"},
		{name: "a profile before the environment", profile: "other", env: map[string]string{"AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "es"},
			want: Credentials{"o", "os=", "ot"}, region: "eu-west-2"},
		{name: "without a key", profile: "empty", region: "eu-west-3", fails: "the profile 'empty' has no aws_access_key_id"},
		{name: "no files", env: map[string]string{"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}, region: "us-east-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := Environment{Home: home, Lookup: func(name string) (string, bool) { v, ok := c.env[name]; return v, ok }}
			got, err := e.Credentials(c.profile)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error %v, want %q", err, c.fails)
				}
			} else if err != nil || got != c.want {
				t.Errorf("%v, error %v; want %v", got, err, c.want)
			}
			if region, err := e.Region(c.profile); region != c.region || err != nil {
				t.Errorf("region %q, error %v; want %q", region, err, c.region)
			}
		})
	}
}

func FuzzParseSection(f *testing.F) {
	f.Add("[default]\na = b\n", "default")
	f.Add("[profile p]\n a=b\n#\n;\n[", "p")
	f.Fuzz(func(t *testing.T, text, profile string) {
		values, err := parseSection(strings.NewReader(text), profile)
		if err == nil && len(values) > strings.Count(text, "\n")+1 {
			t.Errorf("%d values of %q", len(values), text)
		}
	})
}
