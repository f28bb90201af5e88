package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/rpc"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

// serviceCommands are those of the executor service.
func serviceCommands(g *globals) []*cobra.Command {
	return []*cobra.Command{serveCommand(g), healthCommand(g), psCommand(), logsCommand(), waitCommand(), cancelCommand(), enterCommand(g), topCommand()}
}

// withClient runs f with a connection to the executor service.
func (r *remoteFlags) withClient(ctx context.Context, f func(*rpc.Client) error) (err error) {
	if r.address() == "" {
		return errors.New("which executor service? Name it with --executor or $KILN_EXECUTOR, as in: --executor unix:///run/kiln/socket")
	}
	a, err := rpc.ParseAddress(r.address())
	if err != nil {
		return err
	}
	cfg, err := r.tls()
	if err != nil {
		return err
	}
	client, err := rpc.Dial(ctx, a, cfg)
	if err != nil {
		return plainly(err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return plainly(f(client))
}

// plainly gives an error of the executor without what gRPC says around it.
func plainly(err error) error {
	var exit *exitError
	if err == nil || errors.As(err, &exit) {
		return err
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return fmt.Errorf("executor: %s", s.Message())
	}
	return err
}

// tls reads the certificates, nil if there are none.
func (r *remoteFlags) tls() (*tls.Config, error) {
	if r.cert == "" && r.key == "" && r.ca == "" {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if r.cert != "" || r.key != "" {
		pair, err := tls.LoadX509KeyPair(r.cert, r.key)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	if r.ca != "" {
		pool, err := authorities(r.ca)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = pool
	}
	return cfg, nil
}

// authorities reads certificates of authorities.
func authorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read certificates of authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read certificates of authorities: there is none in '%s'", file)
	}
	return pool, nil
}

// buildByExecutor is `kiln build --executor`.
func buildByExecutor(ctx context.Context, g *globals, flags *buildFlags, args []string) error {
	request, err := flags.request()
	if err != nil {
		return err
	}
	return g.withStore(ctx, false, func(c *configuration, st *local.Store) error {
		var drvs []nix.StorePath
		for _, arg := range args {
			p, err := buildArg(ctx, st, arg)
			if err != nil {
				return err
			}
			request.Paths = append(request.Paths, p)
			drvs = append(drvs, p.Path)
		}
		return flags.remote.withClient(ctx, func(client *rpc.Client) error {
			if client.Dir() != st.Dir() {
				return fmt.Errorf("the executor's store is '%s', and the one here '%s'", client.Dir(), st.Dir())
			}
			if err := client.Bring(ctx, st, drvs...); err != nil {
				return err
			}
			m := client.Message(request)
			ctx := rpc.WithTrace(ctx, os.Getenv("TRACEPARENT"), os.Getenv("TRACESTATE"))
			if m.Id = flags.remote.id; m.Id == "" {
				m.Id = strings.ToLower(rand.Text())
			}
			if flags.remote.detach {
				m.Detached = true
				return detach(ctx, client, m)
			}
			screen := newScreen(st.Dir(), g, flags, c.settings.LogLines)
			defer screen.Close()
			request.Log = screen
			results, err := client.BuildMessage(ctx, m, request)
			screen.Close()
			if err != nil {
				return err
			}
			if flags.remote.fetch {
				if err := fetchOutputs(ctx, client, st, results); err != nil {
					return err
				}
			}
			return flags.finish(ctx, g, st, screen, results)
		})
	})
}

// detach begins a build and leaves it.
func detach(ctx context.Context, client *rpc.Client, m *kilnv1.BuildRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Executor.Build(ctx, m)
	if err == nil {
		_, err = stream.Recv()
	}
	if err == nil {
		fmt.Println(m.Id)
	}
	return err
}

// fetchOutputs copies the outputs of successes into the store here. Who names an executor
// believes it.
func fetchOutputs(ctx context.Context, client *rpc.Client, st *local.Store, results []nix.BuildResult) error {
	var outputs []nix.StorePath
	for _, r := range results {
		for _, o := range r.Outputs {
			outputs = append(outputs, o.OutPath)
		}
	}
	return client.Fetch(ctx, st, true, outputs...)
}

func psCommand() *cobra.Command {
	var remote remoteFlags
	var all, asJSON bool
	var watch bool
	c := &cobra.Command{
		Use:   "ps",
		Short: "List the builds of an executor service",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return remote.withClient(c.Context(), func(client *rpc.Client) error {
				for {
					list, err := listBuilds(c.Context(), client, all)
					if err != nil {
						return err
					}
					if asJSON {
						return printMessages(os.Stdout, list)
					}
					if watch {
						fmt.Print("\x1b[H\x1b[J")
					}
					if err := printBuilds(os.Stdout, list, time.Now()); err != nil || !watch {
						return err
					}
					select {
					case <-time.After(time.Second):
					case <-c.Context().Done():
						return nil
					}
				}
			})
		},
	}
	remote.registerAddress(c.Flags())
	c.Flags().BoolVarP(&all, "all", "a", false, "list those that have ended, too")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show the list again every second")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, a build a line")
	return c
}

func listBuilds(ctx context.Context, client *rpc.Client, all bool) (list []*kilnv1.BuildInfo, err error) {
	request := &kilnv1.ListBuildsRequest{PageSize: 1000}
	if !all {
		request.States = []kilnv1.BuildState{kilnv1.BuildState_BUILD_STATE_QUEUED, kilnv1.BuildState_BUILD_STATE_RUNNING}
	}
	for {
		reply, err := client.Executor.ListBuilds(ctx, request)
		if err != nil {
			return nil, err
		}
		list = append(list, reply.Builds...)
		if request.PageToken = reply.NextPageToken; request.PageToken == "" {
			return list, nil
		}
	}
}

func stateName(s kilnv1.BuildState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "BUILD_STATE_"))
}

func printBuilds(w io.Writer, list []*kilnv1.BuildInfo, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tSTATE\tAGE\tOWNER\tWHAT\tDOES\t")
	for _, b := range list {
		fmt.Fprintf(t, "%s\t%s\t%v\t%s\t%s\t%s\t\n", b.Id, stateName(b.State), now.Sub(b.Created.AsTime()).Round(time.Second), b.Owner, target(b), plain(b.Activity))
	}
	return t.Flush()
}

func printMessages(w io.Writer, list []*kilnv1.BuildInfo) error {
	for _, b := range list {
		text, err := protojson.Marshal(b)
		if err != nil {
			return err
		}
		// Its own text is not the same twice on purpose.
		var compact json.RawMessage = text
		if text, err = json.Marshal(compact); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s\n", text); err != nil {
			return err
		}
	}
	return nil
}

func logsCommand() *cobra.Command {
	var remote remoteFlags
	var follow bool
	var offset uint64
	c := &cobra.Command{
		Use:   "logs ID",
		Short: "Print the log of a build of an executor service",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return remote.withClient(c.Context(), func(client *rpc.Client) error {
				stream, err := client.Executor.WatchBuild(c.Context(), &kilnv1.WatchBuildRequest{Id: args[0], LogOnly: true, LogOffset: offset, NoFollow: !follow})
				if err != nil {
					return err
				}
				return copyLog(os.Stdout, stream)
			})
		},
	}
	remote.registerAddress(c.Flags())
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing until the build ends")
	c.Flags().Uint64Var(&offset, "offset", 0, "begin at this byte")
	return c
}

func copyLog(w io.Writer, stream grpc.ServerStreamingClient[kilnv1.BuildEvent]) error {
	for {
		e, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if _, err := w.Write(e.GetLog().GetData()); err != nil {
			return err
		}
	}
}

func waitCommand() *cobra.Command {
	return endCommand("wait ID", "Wait for a build of an executor service, and print its outputs", func(ctx context.Context, client *rpc.Client, id string) (*kilnv1.BuildInfo, error) {
		return client.Executor.WaitBuild(ctx, &kilnv1.WaitBuildRequest{Id: id})
	})
}

func cancelCommand() *cobra.Command {
	c := endCommand("cancel ID", "Stop a build of an executor service", func(ctx context.Context, client *rpc.Client, id string) (*kilnv1.BuildInfo, error) {
		info, err := client.Executor.CancelBuild(ctx, &kilnv1.CancelBuildRequest{Id: id})
		if err == nil && info.State == kilnv1.BuildState_BUILD_STATE_CANCELLED {
			return nil, nil
		}
		return info, err
	})
	return c
}

// endCommand is a command that is about how a build ends.
func endCommand(use, short string, call func(context.Context, *rpc.Client, string) (*kilnv1.BuildInfo, error)) *cobra.Command {
	var remote remoteFlags
	var asJSON bool
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return remote.withClient(c.Context(), func(client *rpc.Client) error {
				info, err := call(c.Context(), client, args[0])
				if err != nil || info == nil {
					return err
				}
				if asJSON {
					return errors.Join(printMessages(os.Stdout, []*kilnv1.BuildInfo{info}), endedAs(info))
				}
				for _, r := range info.Results {
					for _, o := range r.Outputs {
						fmt.Println(o.StorePath)
					}
				}
				return endedAs(info)
			})
		},
	}
	remote.registerAddress(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print everything that is known of the build as JSON")
	return c
}

// endedAs is the error of a build that did not succeed, with the exit code of `kiln build`.
func endedAs(info *kilnv1.BuildInfo) error {
	if info.State == kilnv1.BuildState_BUILD_STATE_SUCCEEDED {
		return nil
	}
	exit := &exitError{code: 1, err: fmt.Errorf("the build is %s", strings.TrimSpace(stateName(info.State)+" "+info.Error))}
	var statuses []nix.BuildStatus
	for _, r := range info.Results {
		for _, name := range slices.Concat([]string{r.Status}, r.Causes) {
			if s, ok := nix.ParseBuildStatus(name); ok && !s.Success() {
				statuses = append(statuses, s)
			}
		}
		if !r.Success {
			exit.err = errors.New(r.Message)
		}
	}
	exit.code = nix.ExitStatus(statuses...)
	return exit
}
