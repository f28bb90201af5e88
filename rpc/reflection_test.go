package rpc

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// TestReflection does what tools do: it finds out about all services, with nothing of them
// but what the server tells, and makes descriptors of that.
func TestReflection(t *testing.T) {
	g := grpc.NewServer()
	kilnv1.RegisterExecutorServer(g, kilnv1.UnimplementedExecutorServer{})
	kilnv1.RegisterStoreServer(g, kilnv1.UnimplementedStoreServer{})
	healthpb.RegisterHealthServer(g, healthpb.UnimplementedHealthServer{})
	reflectionpb.RegisterServerReflectionServer(g, &reflectionService{g: g})
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	defer func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	symbol := func(name string) *reflectionpb.ServerReflectionResponse {
		return ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name}})
	}

	list := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	var names []string
	var set descriptorpb.FileDescriptorSet
	for _, s := range list.GetListServicesResponse().GetService() {
		names = append(names, s.Name)
		for _, raw := range symbol(s.Name).GetFileDescriptorResponse().GetFileDescriptorProto() {
			file := new(descriptorpb.FileDescriptorProto)
			if err := proto.Unmarshal(raw, file); err != nil {
				t.Fatal(err)
			}
			known := false
			for _, f := range set.File {
				known = known || f.GetName() == file.GetName()
			}
			if !known {
				set.File = append(set.File, file)
			}
		}
	}
	want := []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "kiln.v1.Executor", "kiln.v1.Store"}
	if d := cmp.Diff(want, names); d != "" {
		t.Errorf("services (-want +got):\n%s", d)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		t.Fatal(err)
	}
	for name, info := range g.GetServiceInfo() {
		d, err := files.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			t.Error(err)
		} else if n := d.(protoreflect.ServiceDescriptor).Methods().Len(); n != len(info.Methods) {
			t.Errorf("%s has %d methods, %d are told", name, len(info.Methods), n)
		}
	}

	for _, nonsense := range []*reflectionpb.ServerReflectionResponse{
		symbol("kiln.v1.Nothing"),
		ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileByFilename{FileByFilename: "nothing.proto"}}),
		ask(&reflectionpb.ServerReflectionRequest{}),
	} {
		if nonsense.GetErrorResponse().GetErrorMessage() == "" {
			t.Errorf("there is such a thing: %v", nonsense)
		}
	}
}
