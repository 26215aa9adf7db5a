package console

import (
	"context"
	"net/http"
	"time"

	"github.com/headgate/headgate/pkg/doctor"
)

// doctorLimit bounds one examination.
const doctorLimit = 2 * time.Minute

// A checkGroup are the results of one status.
type checkGroup struct {
	Status  doctor.Status
	Level   level
	Results []doctor.Result
}

// A doctorView is what the page of the doctor shows.
type doctorView struct {
	Configured bool
	Task       taskView[*doctor.Report]
	Age        time.Duration
	Groups     []checkGroup // the most severe first
	Checks     []doctor.Check
}

// checkLevels are how the statuses of checks are shown.
var checkLevels = map[doctor.Status]level{doctor.Fail: alarm, doctor.Warn: waiting, doctor.OK: good, doctor.Skipped: neutral}

// serveDoctor shows the last examination.
func (c *Console) serveDoctor(w http.ResponseWriter, r *http.Request) {
	v := doctorView{Configured: c.Examine != nil, Task: c.doctor.view(), Checks: doctor.Checks()}
	if v.Task.Running {
		w.Header().Set("Refresh", jobRefresh)
	}
	if report := v.Task.Last.Value; report != nil {
		v.Age = max(0, c.Now().Sub(v.Task.Last.At).Round(time.Second))
		for _, status := range []doctor.Status{doctor.Fail, doctor.Warn, doctor.Skipped, doctor.OK} {
			group := checkGroup{Status: status, Level: checkLevels[status]}
			for _, one := range report.Results {
				if one.Status == status {
					group.Results = append(group.Results, one)
				}
			}
			if group.Results != nil {
				v.Groups = append(v.Groups, group)
			}
		}
	}
	c.render(w, r, "doctor", v)
}

// runDoctor begins an examination, unless one runs.
func (c *Console) runDoctor(w http.ResponseWriter, r *http.Request) {
	if c.Examine == nil {
		c.notFound(w, r)
		return
	}
	c.doctor.start(userOf(r).Name, doctorLimit, c.stopped, func(ctx context.Context, _ progress) (*doctor.Report, error) { return c.Examine(ctx) })
	http.Redirect(w, r, "/doctor", http.StatusSeeOther)
}
