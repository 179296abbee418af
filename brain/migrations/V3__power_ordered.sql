-- The limits on automatic starts and stops do not count what a user has ordered.
ALTER TABLE virtual_machines
    ADD COLUMN power_ordered boolean NOT NULL DEFAULT false; -- power_on was changed by a user since the last start
