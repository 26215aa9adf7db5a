package api_test

import (
	"slices"
	"testing"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
)

func TestUnsubscribed_CountsEveryEndpoint(t *testing.T) {
	t.Parallel()
	all := codat.Current()
	for _, tt := range []struct {
		name     string
		webhooks []api.Webhook
		want     []string
	}{
		{"no endpoint", nil, all},
		{"one without types has all", []api.Webhook{{}}, []string{}},
		{"two with parts", []api.Webhook{{EventTypes: all[:20], Disabled: true}, {EventTypes: append([]string{"own.type"}, all[21:]...), CompanyTags: []string{"a:b"}}}, all[20:21]},
	} {
		if got := api.Unsubscribed(tt.webhooks); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q; want %q", tt.name, got, tt.want)
		}
	}
}
